package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

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

// newWords returns a command that prints its name and arguments.
func newWords(env *Env, use string) *cobra.Command {
	c := &cobra.Command{Use: use, Short: "print words"}
	upper := c.Flags().Bool("upper", false, "print in upper case")
	c.Flags().Duration("timeout", 0, "how long")
	c.RunE = func(c *cobra.Command, words []string) error {
		text := fmt.Sprint(c.Name(), words)
		if *upper {
			text = strings.ToUpper(text)
		}
		fmt.Fprint(env.Stdout, text)
		return nil
	}
	return c
}

func TestProgram(t *testing.T) {
	p := Program{Name: "p", Version: "v1", New: func(env *Env) *cobra.Command {
		root := newWords(env, "p")
		group := &cobra.Command{Use: "group", Short: "group commands"}
		group.AddCommand(newWords(env, "one <word>"))
		AddGroup(root, "Words", newWords(env, "say <word> [word]…"), group)
		return root
	}}
	for name, test := range map[string]struct {
		args           string
		status         int
		stdout, stderr string // what they contain
	}{
		"default command":           {"", StatusOK, "p[]", ""},
		"options of the default":    {"--upper", StatusOK, "P[]", ""},
		"command":                   {"say a --upper b", StatusOK, "SAY[A B]", ""},
		"unknown command":           {"nope", StatusUsage, "", "p: no command \"nope\"\n\"p --help\""},
		"similar command":           {"sya", StatusUsage, "", `p: no command "sya"; did you mean say?`},
		"command of a group":        {"group one a", StatusOK, "one[a]", ""},
		"unknown command of group":  {"group onne", StatusUsage, "", `p group: no command "onne"; did you mean one?`},
		"group without command":     {"group", StatusUsage, "", "p group: a command is missing: one"},
		"help":                      {"--help", StatusOK, "Words:\n  say ", ""},
		"short help":                {"-h", StatusOK, "Words:\n  say ", ""},
		"help command":              {"help", StatusOK, "Words:\n  say ", ""},
		"help of a command":         {"say -h", StatusOK, "Usage: p say <word> [word]… [options]", ""},
		"help about a command":      {"help group one", StatusOK, "Usage: p group one <word> [options]", ""},
		"help about nothing":        {"help sya", StatusUsage, "", `p help: no command "sya"; did you mean say?`},
		"exit statuses":             {"help exit-status", StatusOK, "129  RabbitMQ", ""},
		"version":                   {"version", StatusOK, "p v1\n  commit  ", ""},
		"version option":            {"--version", StatusOK, "p version v1\n", ""},
		"version as JSON":           {"version --json", StatusOK, `"version": "v1",`, ""},
		"unknown option":            {"say --nope", StatusUsage, "", "p say: no option --nope\n"},
		"similar option":            {"say a --uper", StatusUsage, "", "p say: no option --uper; did you mean --upper?\n"},
		"option with one dash":      {"say a -upper", StatusUsage, "", "p say: no option -upper; did you mean --upper?\n"},
		"option without value":      {"say a --timeout", StatusUsage, "", "p say: --timeout needs a value\n"},
		"option with a wrong value": {"say a --timeout soon", StatusUsage, "", `p say: --timeout must be a duration with a unit, as in 90s or 5m, not "soon"`},
		"switch with a wrong value": {"say a --upper=maybe", StatusUsage, "", `p say: --upper must be true or false, not "maybe"`},
		"missing argument":          {"say", StatusUsage, "", "p say: the argument <word> is missing\n"},
		"too many arguments":        {"group one a b", StatusUsage, "", `p group one: unexpected argument "b"`},
		"unknown shell":             {"completion sh", StatusUsage, "", `p completion: the shell is bash, zsh or fish, not "sh"`},
	} {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := run(t, p, strings.Fields(test.args)...)
			if status != test.status || !strings.Contains(stdout, test.stdout) || !strings.Contains(stderr, test.stderr) {
				t.Errorf("status %d, %q, %q", status, stdout, stderr)
			}
			if (stdout == "") != (test.stdout == "") || (stderr == "") != (test.stderr == "") {
				t.Errorf("wrong output: %q, %q", stdout, stderr)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		status int
		stderr string
	}{
		"none":        {nil, StatusOK, ""},
		"error":       {errors.New("x"), StatusFailure, "p: x\n"},
		"with status": {WithStatus(StatusNoReply, errors.New("x")), StatusNoReply, "p: x\n"},
		"status only": {WithStatus(StatusNoReply, nil), StatusNoReply, ""},
		"usage":       {Usagef("no %s", "x"), StatusUsage, "p: no x\n\"p --help\" describes the arguments.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := Program{Name: "p", New: func(*Env) *cobra.Command {
				return &cobra.Command{Use: "p", Short: "fail", RunE: func(*cobra.Command, []string) error { return test.err }}
			}}
			if status, stdout, stderr := run(t, p); status != test.status || stdout != "" || stderr != test.stderr {
				t.Errorf("status %d, %q, %q", status, stdout, stderr)
			}
		})
	}
}

func TestStatusOf(t *testing.T) {
	for want, errs := range map[int][]error{
		StatusOK:          {nil},
		StatusNoReply:     {fmt.Errorf("x: %w", WithStatus(StatusNoReply, wait.ErrUnreachable))},
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
