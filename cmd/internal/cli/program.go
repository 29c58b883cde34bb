// Package cli is what the programs of this module have in common: how arguments are
// checked and errors explained, help, completion, exit statuses, tables and progress on a
// terminal. The commands are those of package cobra. Package cli knows none of them.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// A Program is a tree of commands.
type Program struct {
	Name    string
	Version string
	Schema  int // the version of the database's schema that it needs, 0 if it needs none

	// Manual returns further sections of the manual page. It may be nil.
	Manual func() []Section

	// New returns the root of the commands. The root is the default command if it can
	// run. A command lists its arguments in Use: <name> is required, [name] is
	// optional, and … says that the argument may be repeated, as in [name=value]….
	New func(env *Env) *cobra.Command
}

// An Env is what a command runs with.
type Env struct {
	Program        string // its name
	Version        string // of the program
	Environ        []string
	Stdout, Stderr io.Writer
}

// Main runs the program with the arguments of the process and exits. The context of a
// command is canceled by the first SIGINT or SIGTERM.
func Main(p Program) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	env := &Env{Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}
	status := p.Run(ctx, env, os.Args[1:])
	stop()
	os.Exit(status)
}

// Run runs the command that args name and returns the exit status. It sets Program and
// Version of env.
func (p Program) Run(ctx context.Context, env *Env, args []string) (status int) {
	root := p.Root(env)
	root.SetArgs(append([]string{}, args...)) // not nil, which means os.Args
	command, err := root.ExecuteContextC(ctx)
	return env.report(command, err)
}

// Root returns the root of the commands, with those that each program has: help, version
// and completion. It sets Program and Version of env.
func (p Program) Root(env *Env) *cobra.Command {
	env.Program, env.Version = p.Name, p.Version
	root := p.New(env)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetHelpFunc(printHelp)
	root.SetFlagErrorFunc(explainFlagError)
	root.Version = p.Version
	root.Flags().Bool("version", false, "print the version")
	root.AddCommand(newVersion(env, p.Schema), newCompletion(env), newMan(env, p.Manual), newExitStatus())
	root.SetHelpCommand(newHelp())
	root.InitDefaultHelpCmd()
	prepare(root)
	return root
}

// report prints an error of a command and returns the exit status for it.
func (e *Env) report(command *cobra.Command, err error) (status int) {
	if err == nil {
		return StatusOK
	}
	if silent := (*statusError)(nil); !errors.As(err, &silent) || silent.err != nil {
		fmt.Fprintf(e.Stderr, "%s: %v\n", command.CommandPath(), err)
	}
	status = StatusOf(err)
	if status == StatusUsage {
		fmt.Fprintf(e.Stderr, "\"%s --help\" describes the arguments.\n", command.CommandPath())
	}
	return status
}
