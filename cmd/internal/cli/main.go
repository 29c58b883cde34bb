// Package cli is the program glotpod-ident: its commands, their flags and help, and
// the statuses that it ends with.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// version is the program's version, as [Main] was given it.
var version = "dev"

// The statuses that the program ends with.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNoAnswer    = 3   // of call, status and drain
	exitSettings    = 78  // sysexits.h: EX_CONFIG
	exitUnreachable = 129 // RabbitMQ or PostgreSQL
)

// A command is one of the program's subcommands. run returns the status to end
// with. ctx is done when the program is asked to stop.
type command struct {
	name    string
	summary string
	run     func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

func commands() []command {
	return []command{
		{"serve", "run an instance (also without any command)", runServe},
		{"migrate", "bring the database's schema up to date", runMigrate},
		{"export", "write all users to a file", runExport},
		{"import", "bring users in from a file", runImport},
		{"keygen", "print a new encryption key", runKeygen},
		{"rekey", "seal all access tokens by the first encryption key", runRekey},
		{"status", "tell which instances there are, and who has which partition", runStatus},
		{"drain", "have an instance hand over its partitions", runDrain},
		{"undrain", "let an instance take partitions again", runUndrain},
		{"call", "send one request to the service, and print the answer", runCall},
		{"bench", "measure the service beside an echo", runBench},
		{"dev", "run a cluster with a broker and a database of its own, to try things", runDev},
		{"version", "print the program's version", runVersion},
	}
}

// Main runs the program and ends the process. programVersion is the version that the
// program reports.
func Main(programVersion string) {
	version = programVersion
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	name := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	} else if len(args) > 0 {
		switch args[0] {
		case "-h", "-help", "--help":
			printUsage(stdout)
			return exitOK
		case "-version", "--version":
			name, args = "version", args[1:]
		}
	}
	if name == "help" {
		printUsage(stdout)
		return exitOK
	}
	for _, c := range commands() {
		if c.name == name {
			return c.run(ctx, args, stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "glotpod-ident: no command %q; see glotpod-ident --help\n", name)
	return exitUsage
}

func printUsage(w io.Writer) {
	fmt.Fprint(w, "glotpod-ident is the identity service of GlotPod.\n\nUsage: glotpod-ident [command] [arguments]\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-9s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, `
glotpod-ident <command> --help tells more of a command.

Settings come from the TOML file that the environment variable
GLOTPOD_IDENT_SETTINGS names, and from the environment: the key amqp.host is
the variable GLOTPOD_IDENT__AMQP__HOST as well.

`)
	for _, e := range config.Reference() {
		fmt.Fprintf(w, "  %s (%s)\n      %s\n", e.Key, e.Default, e.Help)
	}
	fmt.Fprint(w, `
Exit status: 0 when all went well or the instance was asked to stop, 78 when the
settings or the schema are wrong or RabbitMQ refuses the login, 129 when RabbitMQ
or PostgreSQL is out of reach, 1 for other failures, 2 for wrong arguments.
`)
}

func runVersion(_ context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags("version", stderr, "", "Prints the program's version.")
	if status, done := flags.parse(args, 0); done {
		return status
	}
	build := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		build = " " + info.GoVersion
	}
	fmt.Fprintf(stdout, "glotpod-ident %s%s\n", version, build)
	return exitOK
}

func runKeygen(_ context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags("keygen", stderr, "", "Prints a new key for database.encryption_key.")
	if status, done := flags.parse(args, 0); done {
		return status
	}
	fmt.Fprintln(stdout, config.GenerateKey())
	return exitOK
}

// fail reports an error and returns the status that belongs to it.
func fail(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "glotpod-ident: %v\n", err)
	return statusOf(err)
}

func statusOf(err error) int {
	var settings *config.Error
	var schema *store.SchemaError
	var disagreement *store.ParametersError
	var setup *cluster.SetupError
	var stopped *cluster.StoppedError
	switch {
	case errors.Is(err, cluster.ErrUnreachable):
		return exitUnreachable
	case errors.As(err, &settings), errors.As(err, &schema), errors.As(err, &disagreement), errors.As(err, &setup),
		broker.LoginRefused(err), errors.As(err, &stopped) && stopped.Reason == ownership.ParametersDiffer:
		return exitSettings
	}
	return exitFailure
}
