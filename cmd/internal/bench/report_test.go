package bench

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/internal/cli"
)

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   *spread
	}{
		{nil, nil},
		{[]float64{2}, &spread{2, 2, 2}},
		{[]float64{3, 1, 2}, &spread{2, 1, 3}},
		{[]float64{4, 1, 3, 2}, &spread{2.5, 1, 4}},
	} {
		if got := spreadOf(test.values); !reflect.DeepEqual(got, test.want) {
			t.Errorf("spread of %v: got %v, want %v", test.values, got, test.want)
		}
	}
}

func TestRatiosSkipUnknownValues(t *testing.T) {
	if got := ratios([]float64{10, 0, 30, 40}, []float64{5, 5, 0, 10}); !reflect.DeepEqual(got, []float64{2, 4}) {
		t.Errorf("ratios: %v", got)
	}
}

func TestRounds(t *testing.T) {
	for _, test := range []struct{ turns, want []int }{
		{nil, []int{}},
		{[]int{1, 2, 4}, []int{1, 2, 4}},
		{[]int{1, 2, 3, 4, 5, 6, 7}, []int{3, 3, 9, 6, 7}},
	} {
		var turns []point
		for _, n := range test.turns {
			turns = append(turns, point{PerSecond: 1, Work: turnWork{n, n, float64(n), float64(n), float64(n), int64(n), int64(n), int64(n)}})
		}
		want := []point{}
		for _, n := range test.want {
			want = append(want, point{Work: turnWork{n, n, float64(n), float64(n), float64(n), int64(n), int64(n), int64(n)}})
		}
		if got := roundsOf(turns); !slices.Equal(got, want) {
			t.Errorf("turns of %v: got %v, want %v", test.turns, got, want)
		}
	}
}

// A turn's work belongs to the side that had the turn, and only to sides that use the
// database.
func TestTurnsOfSides(t *testing.T) {
	turn := func(requests, writes int) *loadResult {
		r := &loadResult{lasted: time.Second, inTime: requests, writes: writes}
		for range requests {
			r.latencies.add(time.Millisecond)
		}
		return r
	}
	sides := map[string]*measuredSide{}
	for _, name := range []string{serviceSide, plainSide, echoSide} {
		sides[name] = &measuredSide{name: name}
	}
	for range 2 {
		sides[serviceSide].add(turn(100, 10), cpuTicks{service: 10, broker: 5, database: 20}, counters{wal: 8000, commits: 5, statements: 25})
		sides[echoSide].add(turn(1000, 1000), cpuTicks{echo: 10, broker: 5, database: 2}, counters{wal: 64, commits: 1, statements: 1})
		sides[plainSide].add(turn(50, 5), cpuTicks{plain: 5, broker: 5, database: 10}, counters{wal: 3000, commits: 5, statements: 20})
	}
	before := laggingReading{laggingCounters: laggingCounters{transactions: 100, rows: map[string]int64{serviceSide: 1000, plainSide: 50}}, roundTrips: 7, tripsKnown: true}
	after := laggingReading{laggingCounters: laggingCounters{transactions: 140, rows: map[string]int64{serviceSide: 1600, plainSide: 60}}, roundTrips: 27, tripsKnown: true}
	transactions, trips := 0.2, 0.1
	for name, want := range map[string]*databaseWork{
		serviceSide: {CommitsPerSecond: 5, WritesPerCommit: 2, StatementsPerCommit: 5, Rows: 3, WAL: 80, Transactions: &transactions, RoundTrips: &trips},
		plainSide:   {CommitsPerSecond: 5, WritesPerCommit: 1, StatementsPerCommit: 4, Rows: 0.1, WAL: 60},
	} {
		if got := sides[name].databaseWork(before, after); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	for name, want := range map[string]cpuCost{
		serviceSide: {Server: 1, Broker: 0.5, Database: 2},
		plainSide:   {Server: 1, Broker: 1, Database: 2},
		echoSide:    {Server: 0.1, Broker: 0.05, Database: 0.02},
	} {
		sides[name].subject = &subject{family: &processFamily{}}
		if got := sides[name].result().CPU; got == nil || *got != want {
			t.Errorf("%s: CPU %+v, want %+v", name, got, want)
		}
	}
	if work := sides[echoSide].turns[0].Work; work != (turnWork{}) {
		t.Errorf("the echo has the work of others: %+v", work)
	}
}

// cellOf returns a cell whose sides had the same in each of five slices.
func cellOf(name string, inFlight int, sides map[string]point) cell {
	c := cell{Case: name, InFlight: inFlight}
	for _, side := range []string{serviceSide, echoSide, directEchoSide, plainSide} {
		p, ok := sides[side]
		if !ok {
			continue
		}
		s := sideResult{Name: side, PerSecond: p.PerSecond, P50: p.P50}
		for range minPairs {
			s.Slices = append(s.Slices, p)
		}
		c.Sides = append(c.Sides, s)
	}
	c.compareSides()
	return c
}

func TestTargets(t *testing.T) {
	cases, err := casesNamed("patch")
	if err != nil {
		t.Fatal(err)
	}
	patch := cases[0]
	for name, test := range map[string]struct {
		inFlight int
		sides    map[string]point
		met      map[string]bool // by target
	}{
		"latency met": {1, map[string]point{serviceSide: {P50: 1.2}, plainSide: {P50: 1}},
			map[string]bool{"p50 <= 1.3 x plain": true}},
		"latency missed": {1, map[string]point{serviceSide: {P50: 1.4}, plainSide: {P50: 1}},
			map[string]bool{"p50 <= 1.3 x plain": false}},
		"plain does not run": {1, map[string]point{serviceSide: {P50: 1.2}, echoSide: {P50: 1}}, nil},
		"rates": {128, map[string]point{serviceSide: {PerSecond: 40}, echoSide: {PerSecond: 100}, plainSide: {PerSecond: 21}},
			map[string]bool{"rate >= 0.35 x echo": true, "rate >= 2.5 x plain": false}},
		"work for one": {1, map[string]point{serviceSide: {Work: turnWork{10, 10, 0, 0, 0.005, 8000, 10, 50}}, plainSide: {Work: turnWork{10, 10, 0, 0, 0.003, 6000, 10, 40}}},
			map[string]bool{"database CPU <= 1.3 x plain": false, "WAL <= 700 B": false, "statements per commit <= 5": true}},
		"work for many": {128, map[string]point{serviceSide: {Work: turnWork{1000, 1000, 0, 0, 0.09, 600_000, 50, 300}}},
			map[string]bool{"database CPU <= 0.1 ms": true, "WAL <= 700 B": true, "statements per commit <= 5": false}},
		"statements are not counted": {128, map[string]point{serviceSide: {Work: turnWork{1000, 1000, 0, 0, 0.11, 800_000, 50, 0}}},
			map[string]bool{"database CPU <= 0.1 ms": false, "WAL <= 700 B": false}},
		"another number in flight": {64, map[string]point{serviceSide: {PerSecond: 40}, echoSide: {PerSecond: 100}}, nil},
	} {
		c := cellOf("patch", test.inFlight, test.sides)
		c.Instances = 1
		c.judge(patch.targets)
		var met map[string]bool
		for _, o := range c.Targets {
			if met == nil {
				met = make(map[string]bool)
			}
			met[o.Target] = o.Met
		}
		if !reflect.DeepEqual(met, test.met) {
			t.Errorf("%s: got %v, want %v", name, met, test.met)
		}
	}
}

// The service with the first number of instances is a baseline of the others, which share the
// baselines.
func TestCellsOfSeveralNumbersOfInstances(t *testing.T) {
	result := func(name string, p point) sideResult {
		return sideResult{Name: name, Slices: slices.Repeat([]point{p}, minPairs)}
	}
	work := func(server, broker, database float64) turnWork {
		return turnWork{Requests: 1000, ServerCPU: server, BrokerCPU: broker, DatabaseCPU: database}
	}
	cases, err := casesNamed("patch")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{subjects: []*subject{{instances: 1}, {instances: 3}}}
	cells := b.cells(cases[0], 128, []sideResult{
		result(serviceSide, point{PerSecond: 400, Work: work(0.1, 0.2, 0.1)}),
		result(serviceSide, point{PerSecond: 320, Work: work(0.2, 0.32, 0.15)}),
		result(echoSide, point{PerSecond: 1000}),
		result(plainSide, point{PerSecond: 155, Work: work(0.5, 0.5, 0.5)}),
	})
	names := func(c cell) (names []string) {
		for _, s := range c.Sides {
			names = append(names, s.Name)
		}
		return names
	}
	if len(cells) != 2 || cells[0].Instances != 1 || cells[1].Instances != 3 ||
		!slices.Equal(names(cells[0]), []string{serviceSide, echoSide, plainSide}) ||
		!slices.Equal(names(cells[1]), []string{serviceSide, "1 instance", echoSide, plainSide}) {
		t.Fatalf("cells: %+v", cells)
	}
	one := cells[1].side("1 instance")
	for name, test := range map[string]struct {
		got  *spread
		want float64
	}{"rate": {one.Rate, 0.8}, "CPU": {one.TotalCPU, 0.67 / 0.4}, "broker": {one.BrokerCPU, 1.6}, "database": {one.DatabaseCPU, 1.5}} {
		if test.got == nil || math.Abs(test.got.Median-test.want) > 1e-9 {
			t.Errorf("%s of three to one: %v, want %v", name, test.got, test.want)
		}
	}
	for i, want := range []map[string]bool{
		{"rate >= 0.35 x echo": true, "rate >= 2.5 x plain": true, "database CPU <= 0.1 ms": true},
		{"rate >= 2 x plain": true, "rate >= 0.75 x 1 instance": true, "CPU <= 1.4 x 1 instance": false,
			"broker CPU <= 1.5 x 1 instance": false, "database CPU <= 0.2 ms": true},
	} {
		met := make(map[string]bool)
		for _, o := range cells[i].Targets {
			met[o.Target] = o.Met
		}
		if !reflect.DeepEqual(met, want) {
			t.Errorf("%d instances: %v, want %v", cells[i].Instances, met, want)
		}
	}
}

// The requests per batch are those of all instances together.
func TestRelayedRequests(t *testing.T) {
	instance := func(text string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/metrics" {
				io.WriteString(w, text)
			}
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	s := &subject{urls: []string{instance("glotpod_ident_relayed_requests_sum 11\nglotpod_ident_relayed_requests_count 2\n"), instance("# HELP\n" + "glotpod_ident_relayed_requests_sum 2e+02\nglotpod_ident_relayed_requests_count 30\n"), instance("")}}
	if got, err := s.relayed(t.Context()); err != nil || got != (relayCount{requests: 211, messages: 32}) {
		t.Errorf("got %+v, %v", got, err)
	}
	s.urls = append(s.urls, instance("glotpod_ident_relayed_requests_sum x\n"))
	if _, err := s.relayed(t.Context()); err == nil {
		t.Error("no error for what is no number")
	}
}

func TestTurns(t *testing.T) {
	for _, test := range []struct {
		duration time.Duration
		sides    int
		pairs    int
		slice    time.Duration
	}{
		{10 * time.Second, 2, 10, 500 * time.Millisecond},
		{time.Second, 2, 5, 100 * time.Millisecond},
		{time.Minute, 4, 30, 500 * time.Millisecond},
	} {
		pairs, slice := turns(test.duration, test.sides)
		if pairs != test.pairs || slice != test.slice {
			t.Errorf("%v for %d sides: %d times %v, want %d times %v", test.duration, test.sides, pairs, slice, test.pairs, test.slice)
		}
	}
}

// savedReport returns a report as it is saved.
func savedReport(cells ...cell) *report {
	return &report{Format: reportFormat, Version: "test", Started: time.Date(2030, 1, 2, 3, 4, 0, 0, time.UTC),
		Cluster: setup{Local: 1, Partitions: 64, QueueType: "quorum", RabbitMQ: "3.10"}, Cells: cells}
}

func TestReportFile(t *testing.T) {
	saved := savedReport(cellOf("get", 1, map[string]point{serviceSide: {PerSecond: 100, P50: 2, Work: turnWork{Requests: 1}}, echoSide: {PerSecond: 200, P50: 1}}))
	text, err := saved.encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "saved.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := readReport(path)
	if err != nil || !reflect.DeepEqual(read, saved) {
		t.Errorf("got %+v, %v, want %+v", read, err, saved)
	}
	for name, wrong := range map[string]string{
		"another format":   `{"format": 2}`,
		"no JSON":          `CASE`,
		"nothing measured": `{"format": 1, "cells": [{"case": "get"}]}`,
	} {
		if err := os.WriteFile(path, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readReport(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompare(t *testing.T) {
	side := func(service, echo float64) map[string]point {
		return map[string]point{serviceSide: {PerSecond: service, P50: 1}, echoSide: {PerSecond: echo, P50: 1}}
	}
	var out bytes.Buffer
	compareReports(&out,
		savedReport(cellOf("get", 1, side(50, 100)), cellOf("patch", 1, side(50, 100)), cellOf("create", 1, side(50, 100)), cellOf("mix", 1, side(50, 100))),
		savedReport(cellOf("get", 1, side(25, 50)), cellOf("patch", 1, side(60, 100)), cellOf("create", 1, side(40, 100)), cellOf("mix", 2, side(50, 100))))
	for name, want := range map[string]string{"get": "same within noise", "patch": "better", "create": "WORSE"} {
		line := lineBeginning(out.String(), name)
		if !strings.HasSuffix(line, want) {
			t.Errorf("%s: %q does not end with %q", name, line, want)
		}
	}
	if line := lineBeginning(out.String(), "mix"); line != "" {
		t.Errorf("what only one run has measured is compared: %q", line)
	}
	if line := lineBeginning(out.String(), "get"); !strings.Contains(line, "50.0 > 25.0") || !strings.Contains(line, "-50%") {
		t.Errorf("the line does not say how the rate has changed: %q", line)
	}
}

// Cells are compared if their numbers of instances are the same.
func TestCompareSeveralNumbersOfInstances(t *testing.T) {
	with := func(instances int, service float64) cell {
		c := cellOf("get", 1, map[string]point{serviceSide: {PerSecond: service, P50: 1}, echoSide: {PerSecond: 100, P50: 1}})
		c.Instances = instances
		return c
	}
	several := savedReport(with(1, 50), with(3, 60))
	several.Cluster.MoreLocal = []int{3}
	older, three := savedReport(with(0, 40)), savedReport(with(3, 30))
	three.Cluster.Local = 3
	for name, test := range map[string]struct {
		before, after *report
		want          []string
	}{
		"several":              {several, several, []string{"get, 1 instance 1 50.0 > 50.0", "get, 3 instances 1 60.0 > 60.0"}},
		"one of an older run":  {older, several, []string{"get 1 40.0 > 50.0"}},
		"the second of two":    {several, three, []string{"get, 3 instances 1 60.0 > 30.0"}},
		"one number, each its": {older, three, []string{"get 1 40.0 > 30.0"}},
	} {
		var out bytes.Buffer
		compareReports(&out, test.before, test.after)
		var got []string
		for line := range strings.Lines(out.String()) {
			if words := strings.Join(strings.Fields(line), " "); strings.HasPrefix(words, "get") {
				got = append(got, words)
			}
		}
		if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// olderReport is a report from before there was a plain service.
const olderReport = `{"format": 1, "started": "2030-01-02T03:04:00Z", "cells": [{"case": "patch", "in_flight": 1,
	"sides": [{"name": "service", "requests_per_second": 50, "p50_ms": 2, "slices": [{"requests_per_second": 50, "p50_ms": 2}]},
		{"name": "echo", "rate_ratio": {"median": 0.5, "min": 0.4, "max": 0.6}, "slices": [{"requests_per_second": 100, "p50_ms": 1}]},
		{"name": "row lock", "slices": [{"requests_per_second": 100, "p50_ms": 1}]}],
	"database": {"write_commits_per_second": 5}, "targets": [{"target": "rate >= 2 x row lock", "beside": "row lock", "rate": true}]}]}`

func TestCompareWithOlderReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "older.json")
	if err := os.WriteFile(path, []byte(olderReport), 0o600); err != nil {
		t.Fatal(err)
	}
	older, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	compareReports(&out, older, savedReport(cellOf("patch", 1,
		map[string]point{serviceSide: {PerSecond: 80, P50: 1}, echoSide: {PerSecond: 100, P50: 1}, plainSide: {PerSecond: 100, P50: 1}})))
	if line := lineBeginning(out.String(), "patch"); !strings.HasSuffix(line, "better") || !strings.Contains(line, "50.0 > 80.0") {
		t.Errorf("compared: %q", line)
	}
}

// Each side has its row in each table, and what is unknown is left out.
func TestPrintedReport(t *testing.T) {
	c := cellOf("patch", 1, map[string]point{serviceSide: {PerSecond: 100, P50: 2}, echoSide: {PerSecond: 200, P50: 1}, plainSide: {PerSecond: 100, P50: 1.6}})
	printed := func() string {
		var out bytes.Buffer
		if err := savedReport(c).print(&out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if text := printed(); strings.Contains(text, "DATABASE") || strings.Contains(text, "WAL") {
		t.Errorf("unknown work is printed: %s", text)
	}
	c.Sides[0].Database = &databaseWork{CommitsPerSecond: 50, WritesPerCommit: 2, Rows: 5, WAL: 650}
	c.side(plainSide).Database = &databaseWork{CommitsPerSecond: 100, WritesPerCommit: 1, StatementsPerCommit: 4, Rows: 1, WAL: 600}
	c.side(plainSide).CPU, c.side(plainSide).DatabaseCPU = &cpuCost{0.4, 0.3, 0.2}, &spread{1.5, 1.25, 1.75}
	for _, want := range []string{
		"  plain 1 100 1.60 0.000 0.000 1.00 (1.00-1.00) 1.25 (1.25-1.25) -",
		"  plain 1 0.400 0.300 0.200 1.50 (1.25-1.75)",
		"patch 1 50 2.00 - - - 5.00 650",
		"  plain 1 100 1.00 4.00 - - 1.00 600",
	} {
		if text := printed(); !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool { return slices.Equal(strings.Fields(line), strings.Fields(want)) }) {
			t.Errorf("no line %q: %s", want, text)
		}
	}
}

// lineBeginning returns the line that begins with a word.
func lineBeginning(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, word+" ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func TestCPUTime(t *testing.T) {
	pid, p, ok := parseProcess([]byte("42 (a) (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4000 20 0 1 0 99 1 1\n"))
	if want := (process{name: "a) (b) c", parent: 7, ticks: 4123}); !ok || pid != 42 || p != want {
		t.Errorf("got %d, %+v, %v", pid, p, ok)
	}
	for _, wrong := range []string{"", "42", "42 (a)", "42 (a) S 7 1", "x (a) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4000"} {
		if _, _, ok := parseProcess([]byte(wrong)); ok {
			t.Errorf("%q is read as a process", wrong)
		}
	}
	all := map[int]process{1: {parent: 0}, 10: {parent: 1}, 20: {parent: 10, name: "postgres"}, 21: {parent: 20}, 22: {parent: 21}, 30: {parent: 1}}
	family := processFamily{self: 10, instances: []int{40}, others: []int{44}, echo: 41, plain: 42}
	for pid, name := range map[int]string{40: "glotpod-ident", 44: "glotpod-ident", 41: "bench", 42: "bench", 43: "beam.smp"} {
		all[pid] = process{parent: 10, name: name, ticks: int64(pid)}
	}
	all[22] = process{parent: 21, ticks: 22}
	if got, want := family.classify(all), (cpuTicks{service: 40, echo: 41, plain: 42, broker: 43, database: 22}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if child, found := family.childOf(all, 22); !found || child != 20 {
		t.Errorf("a descendant belongs to %d, %v", child, found)
	}
	for _, stranger := range []int{10, 30} {
		if child, found := family.childOf(all, stranger); found {
			t.Errorf("%d counts as a descendant of %d", stranger, child)
		}
	}
}

func TestWrongFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--local", "0"}, {"--local", "10"}, {"--local", ""}, {"--local", "1,"}, {"--local", "3,3"}, {"--local", "4,6"}, {"--cases", "get,nothing"}, {"--in-flight", "0"}, {"--in-flight", "1,"},
		{"--queue-type", "classic"}, {"--local", "1", "--queue-type", "stream"}, {"--partitions", "4"}, {"--local", "1", "--keep"}, {"--duration", "0s"}, {"--local", "1", "--partitions", "0"},
	} {
		var stderr bytes.Buffer
		env := &cli.Env{Stdout: io.Discard, Stderr: &stderr}
		if status := Program("test").Run(t.Context(), env, args); status != cli.StatusUsage || stderr.Len() == 0 {
			t.Errorf("%q: status %d, %q", args, status, stderr.String())
		}
	}
}
