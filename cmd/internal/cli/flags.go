package cli

import (
	"flag"
	"fmt"
	"io"
)

// flags are the flags of a command.
type flags struct {
	*flag.FlagSet
}

// newFlags returns the flags of a command, whose help shows the arguments it
// takes and what it does.
func newFlags(name string, stderr io.Writer, arguments, about string) flags {
	f := flags{flag.NewFlagSet(name, flag.ContinueOnError)}
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "Usage: glotpod-ident %s", name)
		if arguments != "" {
			fmt.Fprintf(f.Output(), " %s", arguments)
		}
		fmt.Fprintf(f.Output(), "\n\n%s\n", about)
		if hasFlags(f.FlagSet) {
			fmt.Fprint(f.Output(), "\nFlags:\n")
			f.PrintDefaults()
		}
	}
	return f
}

func hasFlags(f *flag.FlagSet) (has bool) {
	f.VisitAll(func(*flag.Flag) { has = true })
	return has
}

// parse parses a command's arguments. The command is done, with the returned
// status, when only help was asked for, or the arguments are wrong, as more
// than most that are no flags are.
func (f flags) parse(args []string, most int) (status int, done bool) {
	switch err := f.Parse(args); {
	case err == flag.ErrHelp:
		return exitOK, true
	case err != nil:
		return exitUsage, true
	}
	if f.NArg() > most {
		fmt.Fprintf(f.Output(), "glotpod-ident %s: unexpected argument %q\n", f.Name(), f.Arg(most))
		return exitUsage, true
	}
	return exitOK, false
}

// parseMixed is parse for a command whose flags may stand between and behind
// its other arguments, which it returns.
func (f flags) parseMixed(args []string) (words []string, status int, done bool) {
	for {
		if status, done := f.parse(args, len(args)); done {
			return nil, status, true
		}
		if f.NArg() == 0 {
			return words, exitOK, false
		}
		words = append(words, f.Arg(0))
		args = f.Args()[1:]
	}
}

// wrong says what is wrong with the arguments, and returns the status for it.
func (f flags) wrong(what string) int {
	fmt.Fprintf(f.Output(), "glotpod-ident %s: %s\n", f.Name(), what)
	return exitUsage
}
