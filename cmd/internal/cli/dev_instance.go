package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"time"
)

const (
	// devRestartPause leaves time to see what the other instances do without
	// the one that has ended.
	devRestartPause = 2 * time.Second

	// devDrainTimeout is far more than an instance takes that ends in order.
	devDrainTimeout = 15 * time.Minute
)

// A devInstance is one of the instances that dev runs. At each time one
// goroutine alone uses it: the one that starts it, then the one that keeps it
// running, then the one that stops it.
type devInstance struct {
	dev  *dev
	name string
	http string      // where it serves the status page
	run  *devProcess // its last one, nil before the first
}

func devInstanceName(i int) string { return fmt.Sprintf("ident-%d", i) }

// The variables by which instances on one settings file differ.
const (
	devInstanceVariable = "GLOTPOD_IDENT__CLUSTER__INSTANCE"
	devListenVariable   = "GLOTPOD_IDENT__HTTP__LISTEN"
)

func (i *devInstance) launch() error {
	run, err := i.dev.launch(i.name, "serve", devInstanceVariable+"="+i.name, devListenVariable+"="+i.http)
	if err != nil {
		return err
	}
	i.run = run
	return nil
}

// becomesReady waits until the instance is ready, and reports false where it
// ends, or ctx is done, before that.
func (i *devInstance) becomesReady(ctx context.Context) bool {
	for !answersOK(ctx, i.url()+"/readyz") {
		select {
		case <-ctx.Done():
			return false
		case <-i.run.Exited():
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
	return true
}

func (i *devInstance) url() string { return "http://" + i.http }

// answersOK asks once.
func answersOK(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// keep starts the instance again whenever it ends, until ctx is done.
func (i *devInstance) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.run.Exited():
		}
		i.dev.say("%s has ended by itself (%v). It starts again in %v.", i.name, i.run.Status(), devRestartPause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(devRestartPause):
		}
		if err := i.launch(); err != nil {
			i.dev.complain(err)
		} else if i.becomesReady(ctx) {
			i.dev.say("%s is ready again. To kill it: %s", i.name, i.killCommand())
		}
	}
}

// killCommand returns what a person types to kill the instance.
func (i *devInstance) killCommand() string { return fmt.Sprintf("kill -9 %d", i.run.child.Pid) }

// stop asks the instance to end, also where a person has frozen it.
func (i *devInstance) stop() error {
	i.run.child.Signal(syscall.SIGCONT) // an error if it has ended
	if err := i.run.Stop(syscall.SIGTERM, devDrainTimeout); err != nil {
		return fmt.Errorf("stop %s: %w", i.name, err)
	}
	return nil
}

// started returns the instances that have been started.
func (d *dev) started() (all []*devInstance) {
	for _, i := range d.instances {
		if i.run != nil {
			all = append(all, i)
		}
	}
	return all
}

// stopInstances asks all to end at once, and returns when they have.
func (d *dev) stopInstances() error {
	all := d.started()
	errs := make([]error, len(all))
	var stops sync.WaitGroup
	for n, i := range all {
		stops.Go(func() { errs[n] = i.stop() })
	}
	stops.Wait()
	return errors.Join(errs...)
}

// killInstances ends all at once. It may be called while stopInstances waits.
func (d *dev) killInstances() {
	for _, i := range d.started() {
		i.run.Kill()
	}
}
