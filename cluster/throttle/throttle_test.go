package throttle_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/cluster/throttle"
)

func TestLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		l := throttle.New(zap.New(core), zap.WarnLevel, "message dropped", time.Minute)
		want := func(events ...int64) {
			t.Helper()
			entries := logs.TakeAll()
			if len(entries) != len(events) {
				t.Fatalf("%d lines were logged, want %d", len(entries), len(events))
			}
			for i, e := range entries {
				if got := e.ContextMap()["events"]; got != events[i] || e.Message != "message dropped" {
					t.Errorf("%q with %v events, want %d", e.Message, got, events[i])
				}
			}
		}
		l.Log(1, zap.String("reason", "first"))
		want(1)
		for range 100 {
			time.Sleep(time.Second / 2)
			l.Log(2)
		}
		want() // less than a minute has passed
		time.Sleep(time.Minute)
		l.Log(1)
		want(201)
	})
}
