// Package cli is what the programs of this module have in common: a table of
// commands, their flags and help, exit statuses, tables and progress on a terminal.
// It knows none of the commands.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// A Program is a table of commands.
type Program struct {
	Name    string
	Version string

	// Default runs if the first argument is not the name of a command.
	Default Command

	// Commands are the other commands. Each program also has the command version.
	Commands []Command

	// PrintHelp prints the help of the program. If it is nil, the help of the
	// program is the help of the default command.
	PrintHelp func(w io.Writer)
}

// A Command is a subcommand of a program. Run returns the exit status. Its ctx is
// canceled by the first SIGINT or SIGTERM.
type Command struct {
	Name    string // "" for the default command of a program that has no name for it
	Summary string // one line for the help of the program
	Run     func(ctx context.Context, env *Env, args []string) int
}

// An Env is what a command runs with.
type Env struct {
	Program        string // its name
	Version        string // of the program
	Command        string // its name, "" if it has none
	Environ        []string
	Stdout, Stderr io.Writer
}

// title returns the name of the program and of the command.
func (e *Env) title() string { return strings.TrimSpace(e.Program + " " + e.Command) }

// Main runs the program with the arguments of the process and exits.
func Main(p Program) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	env := &Env{Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}
	status := p.Run(ctx, env, os.Args[1:])
	stop()
	os.Exit(status)
}

// Run runs the command that args name. It sets Program, Version and Command of env.
func (p Program) Run(ctx context.Context, env *Env, args []string) (status int) {
	env.Program, env.Version = p.Name, p.Version
	command, args, help := p.find(args)
	if help {
		p.PrintHelp(env.Stdout)
		return StatusOK
	}
	if command == nil {
		fmt.Fprintf(env.Stderr, "%s: no command %q; see %s --help\n", p.Name, args[0], p.Name)
		return StatusUsage
	}
	env.Command = command.Name
	return command.Run(ctx, env, args)
}

// find returns the command that args name and its arguments. It returns no command
// if there is none of that name, or if the arguments ask for the program's help.
func (p Program) find(args []string) (_ *Command, rest []string, help bool) {
	if len(args) == 0 {
		return &p.Default, nil, false
	}
	first := args[0]
	switch first {
	case "-h", "-help", "--help", "help":
		if p.PrintHelp != nil {
			return nil, nil, true
		}
	case "-version", "--version":
		first = "version"
	}
	for _, c := range p.all() {
		if c.Name == first {
			return &c, args[1:], false
		}
	}
	if strings.HasPrefix(first, "-") || p.PrintHelp == nil {
		return &p.Default, args, false
	}
	return nil, args, false
}

// all returns the commands that have a name.
func (p Program) all() (all []Command) {
	if p.Default.Name != "" {
		all = append(all, p.Default)
	}
	all = append(all, p.Commands...)
	return append(all, Command{Name: "version", Summary: "print the version of the program", Run: printVersion})
}

// PrintCommands prints one line for each command.
func (p Program) PrintCommands(w io.Writer) {
	for _, c := range p.all() {
		fmt.Fprintf(w, "  %-9s %s\n", c.Name, c.Summary)
	}
}

func printVersion(_ context.Context, env *Env, args []string) int {
	flags := env.NewFlags("", "Prints the version of the program.")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	build := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		build = " " + info.GoVersion
	}
	fmt.Fprintf(env.Stdout, "%s %s%s\n", env.Program, env.Version, build)
	return StatusOK
}
