package cli

import (
	"errors"
	"flag"
	"fmt"
)

// Flags are the flags of a command. It offers all methods of [flag.FlagSet] except
// Parse.
type Flags struct {
	*flag.FlagSet
	env *Env
}

// NewFlags returns the flags of the command. Its help shows the arguments and the
// text about.
func (e *Env) NewFlags(arguments, about string) *Flags {
	f := &Flags{FlagSet: flag.NewFlagSet(e.title(), flag.ContinueOnError), env: e}
	f.SetOutput(e.Stderr)
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "Usage: %s", e.title())
		if arguments != "" {
			fmt.Fprintf(f.Output(), " %s", arguments)
		}
		fmt.Fprintf(f.Output(), "\n\n%s\n", about)
		if f.hasFlags() {
			fmt.Fprint(f.Output(), "\nFlags:\n")
			f.PrintDefaults()
		}
	}
	return f
}

func (f *Flags) hasFlags() (has bool) {
	f.VisitAll(func(*flag.Flag) { has = true })
	return has
}

// Parse parses the arguments of a command. If they ask for help or are wrong, done is
// true and the command ends with status. More than maxArgs positional arguments are
// wrong.
func (f *Flags) Parse(args []string, maxArgs int) (status int, done bool) {
	switch err := f.FlagSet.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return StatusOK, true
	case err != nil:
		return StatusUsage, true
	}
	if f.NArg() > maxArgs {
		return f.Wrong(fmt.Errorf("unexpected argument %q", f.Arg(maxArgs))), true
	}
	return StatusOK, false
}

// ParseMixed parses arguments whose flags may stand between and behind positional
// arguments, and returns the positional arguments. status and done are as in Parse.
func (f *Flags) ParseMixed(args []string) (positional []string, status int, done bool) {
	for {
		if status, done := f.Parse(args, len(args)); done {
			return nil, status, true
		}
		if f.NArg() == 0 {
			return positional, StatusOK, false
		}
		positional = append(positional, f.Arg(0))
		args = f.Args()[1:]
	}
}

// Wrong prints what is wrong with the arguments and returns the exit status for it.
func (f *Flags) Wrong(err error) int { return f.env.FailWith(StatusUsage, err) }
