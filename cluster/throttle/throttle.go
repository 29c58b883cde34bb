// Package throttle limits how often one message is logged. It is for events that
// others can cause any number of times, such as messages that cannot be parsed.
package throttle

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A Logger logs one message, at most once per interval. It counts the events in
// between, so that none is hidden. It is safe for concurrent use.
type Logger struct {
	log     *zap.Logger
	level   zapcore.Level
	message string
	every   time.Duration

	mu     sync.Mutex // guards the following fields
	logged time.Time  // when the message was logged last
	events int        // since then
}

// New returns a Logger for a message. It logs at most once per interval every.
func New(log *zap.Logger, level zapcore.Level, message string, every time.Duration) *Logger {
	return &Logger{log: log, level: level, message: message, every: every}
}

// Log counts n events. It logs the message with the fields if the message was not
// logged during the last interval. The field "events" is the number of events since
// the message was logged last, including these.
func (l *Logger) Log(n int, fields ...zap.Field) {
	if events, due := l.count(n); due {
		l.log.Log(l.level, l.message, append(fields, zap.Int("events", events))...)
	}
}

// count counts n events. If the message is due, count returns the number of events
// since it was logged last. Logging is left to the caller, outside the lock: a log that
// blocks must not block goroutines that only count.
func (l *Logger) count(n int) (events int, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events += n
	now := time.Now()
	if !l.logged.IsZero() && now.Sub(l.logged) < l.every {
		return 0, false
	}
	events = l.events
	l.logged, l.events = now, 0
	return events, true
}
