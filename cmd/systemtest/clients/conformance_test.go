// Package clients runs the conformance suite of all clients, deploy/clients/cases.json.
//
// A client is driven by lines of JSON: a step of a case in, and its outcome out. So the cases
// are written once, and the outcomes are compared here.
package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(floodVariable); spec != "" {
		playFlood(spec) // exits
	}
	harness.Main(m)
}

type dict = map[string]any

// A conformanceCase is a list of steps, one after another.
type conformanceCase struct {
	Name  string
	Steps []step
}

// A step is one request, and what should become of it: a Result, an Error code or a Failure. In
// all texts, {run} stands for the name of the run. A text $name stands for a value that was
// saved, and * for any value.
type step struct {
	// At is the broker: "" with the service, "empty" without one, "script" with a scripted one. The broker
	// "silent" accepts connections and says nothing, "down" accepts none, and "denied" allows no requests.
	At        string  `json:"at"`
	Operation string  `json:"operation"`
	Arguments dict    `json:"arguments"`
	MessageID string  `json:"message_id,omitempty"`
	Timeout   float64 `json:"timeout,omitempty"`  // in seconds
	Encoding  string  `json:"encoding,omitempty"` // "old": msgpack before 2013; "floats": integers as floats
	Times     int     `json:"times,omitempty"`    // so many requests at the same time, if the client can do that; 0: one, and Result is not a list
	Closed    bool    `json:"closed,omitempty"`   // the client is closed before

	Result  any               `json:"result,omitempty"`
	Error   string            `json:"error,omitempty"`
	Failure string            `json:"failure,omitempty"`
	Save    map[string]string `json:"save,omitempty"` // names of values, with the keys that they have in the result
}

// A driver makes the request of a step and returns the outcome: {"result": …}, {"error": code} or
// {"failure": …}.
type driver func(t *testing.T, s *step) dict

// brokers are the URLs of the brokers that steps name.
type brokers map[string]string

func newBrokers(t *testing.T) brokers {
	t.Helper()
	site := harness.NewSite(t)
	site.Serve(t)
	empty := testservers.RabbitMQ(t)
	return brokers{"": site.AMQPURL, "empty": empty.URL(), "script": startScript(t), "denied": empty.NewLogin(t, "denied", "^$", "^$", "^$").URL,
		"silent": silentURL(t), "down": "amqp://guest:guest@127.0.0.1:" + harness.FreePort(t) + "/%2F"}
}

// silentURL returns the URL of a broker that accepts connections and says nothing: they stay in the
// backlog of the listener.
func silentURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "amqp://guest:guest@" + l.Addr().String() + "/%2F"
}

// decode decodes JSON, integers as int64.
func decode(t *testing.T, text []byte, v any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(v); err != nil {
		t.Fatalf("%.300s: %v", text, err)
	}
}

func loadCases(t *testing.T) (cases []conformanceCase) {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/clients/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	decode(t, text, &cases)
	if len(cases) < 5 {
		t.Fatal("there are no cases")
	}
	return cases
}

// conform runs all cases.
func conform(t *testing.T, run string, drive driver) {
	t.Helper()
	for _, c := range loadCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			saved := dict{}
			for i := range c.Steps {
				s := &c.Steps[i]
				s.Arguments, _ = substitute(s.Arguments, run, saved).(dict)
				s.MessageID = strings.ReplaceAll(s.MessageID, "{run}", run)
				begin := time.Now()
				outcome, _ := asIntegers(drive(t, s)).(dict)
				s.check(t, i, outcome, substitute(s.Result, run, saved))
				if (s.Failure == "no_service" || s.Timeout == 0.5) && time.Since(begin) > 10*time.Second {
					t.Errorf("step %d: takes %v", i, time.Since(begin))
				}
				result, _ := outcome["result"].(dict)
				for name, key := range s.Save {
					saved[name] = result[key]
				}
			}
		})
	}
}

func (s *step) check(t *testing.T, i int, outcome dict, result any) {
	t.Helper()
	ok := false
	switch {
	case s.Error != "":
		ok = outcome["error"] == s.Error
	case s.Failure != "":
		ok = outcome["failure"] == s.Failure
	default:
		ok = matches(outcome["result"], asIntegers(result))
	}
	if !ok {
		t.Errorf("step %d, %s: got %v, want %v%s%s", i, s.Operation, outcome, result, s.Error, s.Failure)
	}
}

// substitute replaces {run} and saved values.
func substitute(v any, run string, saved dict) any {
	switch v := v.(type) {
	case dict:
		all := dict{}
		for key, e := range v {
			all[key] = substitute(e, run, saved)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, e := range v {
			all[i] = substitute(e, run, saved)
		}
		return all
	case string:
		if name, ok := strings.CutPrefix(v, "$"); ok {
			return saved[name]
		}
		return strings.ReplaceAll(v, "{run}", run)
	}
	return v
}

// matches reports whether a value is as wanted.
func matches(got, want any) bool {
	switch want := want.(type) {
	case string:
		return want == "*" && got != nil || got == want
	case dict:
		got, ok := got.(dict)
		if !ok || len(got) != len(want) {
			return false
		}
		for key, v := range want {
			if !matches(got[key], v) {
				return false
			}
		}
		return true
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for i, v := range want {
			if !matches(got[i], v) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(got, want)
}

// asIntegers replaces each json.Number, and each {"$int": text}, by an int64.
func asIntegers(v any) any {
	switch v := v.(type) {
	case dict:
		if text, ok := v["$int"].(string); ok {
			return asIntegers(json.Number(text))
		}
		all := dict{}
		for key, e := range v {
			all[key] = asIntegers(e)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, e := range v {
			all[i] = asIntegers(e)
		}
		return all
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			return fmt.Sprint("no integer: ", v)
		}
		return n
	case int:
		return int64(v)
	}
	return v
}
