package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/config"
)

// run runs a program and returns its exit status and output.
func run(t *testing.T, p Program, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = p.Run(t.Context(), &Env{Stdout: &out, Stderr: &err}, args)
	return status, out.String(), err.String()
}

// printArgs is a command that prints its name and positional arguments.
func printArgs(_ context.Context, env *Env, args []string) int {
	flags := env.NewFlags("[word …]", "Prints words.")
	upper := flags.Bool("upper", false, "print in upper case")
	words, status, done := flags.ParseMixed(args)
	if done {
		return status
	}
	text := fmt.Sprint(env.Command, words)
	if *upper {
		text = strings.ToUpper(text)
	}
	fmt.Fprint(env.Stdout, text)
	return StatusOK
}

func TestProgram(t *testing.T) {
	withHelp := Program{Name: "p", Version: "v1", Default: Command{Name: "serve", Run: printArgs},
		Commands: []Command{{Name: "call", Run: printArgs}}, PrintHelp: func(w io.Writer) { io.WriteString(w, "help of p") }}
	withoutHelp := Program{Name: "p", Version: "v1", Default: Command{Run: printArgs}, Commands: []Command{{Name: "call", Run: printArgs}}}
	for name, test := range map[string]struct {
		program        Program
		args           string
		status         int
		stdout, stderr string // what they begin with
	}{
		"default command":            {withHelp, "", StatusOK, "serve[]", ""},
		"default command by name":    {withHelp, "serve a", StatusOK, "serve[a]", ""},
		"flags of the default":       {withHelp, "--upper", StatusOK, "SERVE[]", ""},
		"command":                    {withHelp, "call a --upper b", StatusOK, "CALL[A B]", ""},
		"unknown command":            {withHelp, "nope", StatusUsage, "", `p: no command "nope"`},
		"help":                       {withHelp, "--help", StatusOK, "help of p", ""},
		"help command":               {withHelp, "help", StatusOK, "help of p", ""},
		"help of a command":          {withHelp, "call -h", StatusOK, "", "Usage: p call [word …]"},
		"version":                    {withHelp, "version", StatusOK, "p v1 ", ""},
		"version flag":               {withHelp, "--version", StatusOK, "p v1 ", ""},
		"unknown flag":               {withHelp, "call --nope", StatusUsage, "", "flag provided but not defined: -nope"},
		"argument without command":   {withoutHelp, "a", StatusOK, "[a]", ""},
		"help of the default":        {withoutHelp, "--help", StatusOK, "", "Usage: p [word …]"},
		"command beside the default": {withoutHelp, "call a", StatusOK, "call[a]", ""},
		"too many arguments":         {withoutHelp, "version a", StatusUsage, "", `p version: unexpected argument "a"`},
	} {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := run(t, test.program, strings.Fields(test.args)...)
			if status != test.status || !strings.HasPrefix(stdout, test.stdout) || !strings.HasPrefix(stderr, test.stderr) {
				t.Errorf("status %d, %q, %q", status, stdout, stderr)
			}
			if (stdout == "") != (test.stdout == "") || (stderr == "") != (test.stderr == "") {
				t.Errorf("wrong output: %q, %q", stdout, stderr)
			}
		})
	}
}

func TestStatusOf(t *testing.T) {
	for want, errs := range map[int][]error{
		StatusFailure:     {errors.New("x"), context.Canceled},
		StatusUnreachable: {fmt.Errorf("%w: %w", wait.ErrUnreachable, errors.New("x"))},
		StatusSettings:    {fmt.Errorf("load: %w", new(config.Error))},
	} {
		for _, err := range errs {
			if got := StatusOf(err); got != want {
				t.Errorf("%T: status %d, want %d", err, got, want)
			}
		}
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	table := NewTable(&b, "A", "LONG TITLE", "C")
	table.Row("1", "2", "3")
	table.Row("longer", "", "x")
	table.Flush()
	want := []string{"A       LONG TITLE  C", "1       2           3", "longer              x", ""}
	if got := strings.Split(b.String(), "\n"); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestProgressWithoutTerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, 0, 1<<62)
	if p.OnTerminal() || p.Due() {
		t.Errorf("on a terminal: %v, due: %v", p.OnTerminal(), p.Due())
	}
	p.Report("half")
	p.Clear()
	NewStatusLine(&b).Show("not shown")
	if b.String() != "half\n" {
		t.Errorf("printed %q", b.String())
	}
}
