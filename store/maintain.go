package store

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// maintainEvery is the pause between two runs of a maintenance task.
const maintainEvery = 10 * time.Minute

// maintain runs a task after a delay and then again and again, until ctx is done. If the
// task fails, maintain logs the message.
func maintain(ctx context.Context, log *zap.Logger, after time.Duration, message string, task func(context.Context) error) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if err := task(ctx); err != nil && ctx.Err() == nil {
			log.Warn(message, zap.Duration("in", maintainEvery), zap.Error(err))
		}
		timer.Reset(maintainEvery)
	}
}
