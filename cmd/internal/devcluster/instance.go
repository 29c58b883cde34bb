package devcluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/deploy/localserver"
)

const (
	// restartPause leaves time to watch the cluster without the instance that ended.
	restartPause = 2 * time.Second

	// readyInterval is how often a starting instance is probed.
	readyInterval = 50 * time.Millisecond

	// stopTimeout is far more than an instance takes to stop in order.
	stopTimeout = 15 * time.Minute
)

// An instance is one of the instances of a cluster. One goroutine at a time uses it:
// first the one that starts it, then the one that keeps it running, then the one that
// stops it.
type instance struct {
	cluster *Cluster
	name    string
	address string   // of its status page
	process *process // the latest, nil before the first
}

// A process is a child process that runs glotpod-ident.
type process struct {
	run   *localserver.Process
	child *os.Process
}

func instanceName(i int) string { return fmt.Sprintf("ident-%d", i) }

// start starts the instance and waits until it is ready.
func (i *instance) start(ctx context.Context) error {
	if err := i.launch(); err != nil {
		return err
	}
	if i.waitReady(ctx) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%s ended before it was ready (%v)", i.name, i.process.run.Status())
}

func (i *instance) launch() error {
	p, err := i.cluster.launch(i.name, "serve", instanceVariable+"="+i.name, listenVariable+"="+i.address)
	if err != nil {
		return err
	}
	i.process = p
	return nil
}

// waitReady waits until the instance is ready. It returns false if the instance ends
// or ctx is done before that.
func (i *instance) waitReady(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	exited := i.process.run.Exited() // later, i.process may be the next process
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	for !respondsOK(ctx, i.url()+"/readyz") {
		if wait.For(ctx, readyInterval) != nil {
			return false
		}
	}
	return true
}

func (i *instance) url() string { return "http://" + i.address }

// respondsOK sends one request.
func respondsOK(ctx context.Context, url string) bool {
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

// keepRunning restarts the instance whenever it ends, until ctx is done.
func (i *instance) keepRunning(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.process.run.Exited():
		}
		i.cluster.say("%s has ended by itself (%v). It is restarted in %v.", i.name, i.process.run.Status(), restartPause)
		if wait.For(ctx, restartPause) != nil {
			return
		}
		if err := i.launch(); err != nil {
			i.cluster.printError(err)
		} else if i.waitReady(ctx) {
			i.cluster.say("%s is ready again. To kill it: %s", i.name, i.killCommand())
		}
	}
}

// killCommand returns the shell command that kills the instance.
func (i *instance) killCommand() string { return fmt.Sprintf("kill -9 %d", i.process.child.Pid) }

// stop asks the instance to stop and waits until it has.
func (i *instance) stop() error {
	i.process.child.Signal(syscall.SIGCONT) // the user may have stopped it; an error means that it has ended
	if err := i.process.run.Stop(syscall.SIGTERM, stopTimeout); err != nil {
		return fmt.Errorf("stop %s: %w", i.name, err)
	}
	return nil
}
