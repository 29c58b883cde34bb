package localserver

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A Process is a child of this program that does not outlive it.
type Process struct {
	child  *os.Process
	exited chan struct{}    // closed once it has ended and been waited for
	status *os.ProcessState // how it ended; to be read after exited
}

// Launch starts a command, and on Linux has the kernel send it the signal
// deathSignal should this program die without ending it. The process gets a group
// of its own: a Ctrl-C in the terminal reaches this program alone, which then
// ends its children in order.
func Launch(cmd *exec.Cmd, deathSignal syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr, deathSignal)
	p := &Process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ties a child's life to the thread that started it, not
		// to the whole program: that thread has to stay until the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		cmd.Wait() // what it returns is in the status too
		p.status = cmd.ProcessState
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.child = cmd.Process
	return p, nil
}

// launchLogged is Launch for a command whose output is appended to a file.
func launchLogged(cmd *exec.Cmd, log string, deathSignal syscall.Signal) (*Process, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	cmd.Stdout, cmd.Stderr = out, out
	return Launch(cmd, deathSignal)
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Status waits for the process to end and says how it did.
func (p *Process) Status() *os.ProcessState {
	<-p.exited
	return p.status
}

// Stop asks the process to end by a signal, and kills it if it has not done so
// within patience. It returns when the process and what it started are gone, and
// says by an error that it had to kill. A process that has ended may be ended
// again.
func (p *Process) Stop(sig syscall.Signal, timeout time.Duration) error {
	if p.ended() {
		return nil
	}
	family := findDescendants(p.child.Pid)
	if err := p.child.Signal(sig); err != nil {
		<-p.exited
		return nil
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.exited:
		killAll(family)
		return nil
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("it did not end within %v and was killed", timeout)
	}
}

// Kill ends the process and what it started at once, and returns when they are
// gone. A process that has ended may be killed too.
func (p *Process) Kill() {
	// While it is stopped it neither ends nor starts children, so that its id
	// is surely its own and the children can be counted.
	if err := p.child.Signal(syscall.SIGSTOP); err == nil {
		family := findDescendants(p.child.Pid)
		p.child.Kill()
		defer killAll(family)
	}
	<-p.exited
}

func (p *Process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}
