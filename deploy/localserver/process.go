package localserver

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A Process is a child process that does not outlive this program.
type Process struct {
	child  *os.Process
	exited chan struct{}    // closed after the process has ended and was reaped
	status *os.ProcessState // how it ended; valid after exited is closed
}

// Launch starts a command. On Linux, the kernel sends deathSignal to the process if
// this program dies first. The process gets a process group of its own, so a Ctrl-C in
// the terminal reaches this program only, which then stops its children one by one.
func Launch(cmd *exec.Cmd, deathSignal syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr, deathSignal)
	p := &Process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the signal when the thread that started the child
		// ends, not the program. So that thread must live until the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		cmd.Wait() // the error says no more than ProcessState
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

// Exited returns a channel that is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Status waits until the process has ended and returns how it ended.
func (p *Process) Status() *os.ProcessState {
	<-p.exited
	return p.status
}

// Stop sends a signal to the process, and kills the process if it has not ended within
// timeout. Stop returns when the process and its descendants are gone. An error means
// that the process had to be killed. Stopping a process that has ended does nothing.
func (p *Process) Stop(sig syscall.Signal, timeout time.Duration) error {
	if p.ended() {
		return nil
	}
	descendants := findDescendants(p.child.Pid)
	if err := p.child.Signal(sig); err != nil {
		<-p.exited
		return nil
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.exited:
		killAll(descendants)
		return nil
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("it did not end within %v and was killed", timeout)
	}
}

// Kill kills the process and its descendants, and returns when they are gone. Killing a
// process that has ended does nothing.
func (p *Process) Kill() {
	// A stopped process neither ends nor starts children. So its id cannot be reused
	// by another process, and the list of descendants is complete.
	if err := p.child.Signal(syscall.SIGSTOP); err == nil {
		descendants := findDescendants(p.child.Pid)
		p.child.Kill()
		defer killAll(descendants)
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
