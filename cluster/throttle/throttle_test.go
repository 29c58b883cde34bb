package throttle_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
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

// blockedLog is a log whose output blocks until release is closed.
type blockedLog struct{ entered, release chan struct{} }

func (b blockedLog) Write(p []byte) (int, error) {
	close(b.entered)
	<-b.release
	return len(p), nil
}

func (blockedLog) Sync() error { return nil }

func TestBlockedLog(t *testing.T) {
	out := blockedLog{make(chan struct{}), make(chan struct{})}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), out, zap.WarnLevel)
	l := throttle.New(zap.New(core), zap.WarnLevel, "message dropped", time.Hour)
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		l.Log(1)
	}()
	<-out.entered
	l.Log(1) // only counts, and so does not wait for the log
	close(out.release)
	<-logged
}
