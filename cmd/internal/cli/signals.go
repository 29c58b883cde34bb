package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// StopSignals is for commands that stop in order at the first signal and at once at
// the second. It returns a context that the first SIGINT, SIGTERM or SIGHUP cancels
// and a channel that the second one closes. The caller must call release.
func StopSignals(parent context.Context) (ctx context.Context, hurry <-chan struct{}, release func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	second := make(chan struct{})
	released, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for _, act := range []func(){cancel, func() { close(second) }} {
			select {
			case <-signals:
				act()
			case <-released:
				return
			}
		}
	}()
	return ctx, second, func() {
		signal.Stop(signals)
		close(released)
		<-ended
		cancel()
	}
}
