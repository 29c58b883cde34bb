package bench

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
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

func TestRatiosSkipTurnsWithoutReplies(t *testing.T) {
	a := []point{{10, 1}, {0, 0}, {30, 1}, {40, 1}}
	b := []point{{5, 2}, {5, 2}, {0, 0}, {10, 4}}
	if got := ratios(a, b, rateOf); !reflect.DeepEqual(got, []float64{2, 4}) {
		t.Errorf("ratios of rates: %v", got)
	}
	if got := ratios(a, b, latencyOf); !reflect.DeepEqual(got, []float64{0.5, 0.25}) {
		t.Errorf("ratios of latencies: %v", got)
	}
}

// cellOf returns a cell whose sides had the same in each of five slices.
func cellOf(name string, inFlight int, sides map[string]point) cell {
	c := cell{Case: name, InFlight: inFlight}
	for _, side := range []string{serviceSide, echoSide, directEchoSide, rowLockSide, commitSide} {
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
		"latency met": {1, map[string]point{serviceSide: {P50: 3.9}, echoSide: {P50: 1}, commitSide: {P50: 1}},
			map[string]bool{"p50 <= 2 x echo + 2 commits": true}},
		"latency missed": {1, map[string]point{serviceSide: {P50: 4.1}, echoSide: {P50: 1}, commitSide: {P50: 1}},
			map[string]bool{"p50 <= 2 x echo + 2 commits": false}},
		"commits not known": {1, map[string]point{serviceSide: {P50: 4.1}, echoSide: {P50: 1}}, nil},
		"rates": {128, map[string]point{serviceSide: {PerSecond: 40}, echoSide: {PerSecond: 100}, rowLockSide: {PerSecond: 21}},
			map[string]bool{"rate >= 0.35 x echo": true, "rate >= 2 x row lock": false}},
		"another number in flight": {64, map[string]point{serviceSide: {PerSecond: 40}, echoSide: {PerSecond: 100}}, nil},
	} {
		c := cellOf("patch", test.inFlight, test.sides)
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
	saved := savedReport(cellOf("get", 1, map[string]point{serviceSide: {100, 2}, echoSide: {200, 1}}))
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
		return map[string]point{serviceSide: {service, 1}, echoSide: {echo, 1}}
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
	family := processFamily{self: 10}
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
		{"--local", "0"}, {"--local", "10"}, {"--cases", "get,nothing"}, {"--in-flight", "0"}, {"--in-flight", "1,"},
		{"--queue-type", "classic"}, {"--local", "1", "--queue-type", "stream"}, {"--partitions", "4"}, {"--local", "1", "--keep"}, {"--duration", "0s"}, {"--local", "1", "--partitions", "0"},
	} {
		var stderr bytes.Buffer
		env := &cli.Env{Stdout: io.Discard, Stderr: &stderr}
		if status := Program("test").Run(t.Context(), env, args); status != cli.StatusUsage || stderr.Len() == 0 {
			t.Errorf("%q: status %d, %q", args, status, stderr.String())
		}
	}
}
