// Package doctor is the command doctor, which looks at an installation from outside and says
// what is wrong with it, or will be.
//
// The package first collects facts: of the broker over AMQP and, if that is asked for, over its
// management API, and of the database. The checks then derive findings from the facts. Facts are
// found out as the service finds them out, by the same functions. What must be tried is tried on
// exclusive queues, on exchanges that go with them, and in transactions that are rolled back, so
// that neither requests nor users are touched.
package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/config"
)

const about = `Looks at the installation that the settings describe: the settings, RabbitMQ and
PostgreSQL. Says what is wrong or will be, and what to do about it. It works before
the first start and while instances run, and changes nothing: what it tries, it
tries on queues and exchanges of its own and in transactions that it rolls back.
If one of the service's queues is deleted at the very moment when doctor asks for
its type, doctor declares it again, as a classic queue.

A problem must be mended. An advice may be left as it is. What only the management
API of RabbitMQ can tell is not checked without --management-url.

The keys of the JSON document are format (1), findings (each with id, level, seen and
remedy) and unchecked (each with what and why). A level is problem or advice.

Exit status: 0 if there is no problem, 1 if there is one.`

// options say what is known beside the settings.
type options struct {
	instances  int           // that are to run; 0: those that do, and at least one
	management string        // URL of the broker's management API, or ""
	timeout    time.Duration // of each server
	version    string        // of this program

	present ownership.Parameters // of the cluster; zero: there is none yet, or they are not known
}

// hostTimeout is how long one host may take to reply, so that there is time left for others.
const hostTimeout = 5 * time.Second

// ofHost returns how long to wait for one of several hosts.
func (o options) ofHost() time.Duration { return min(o.timeout, hostTimeout) }

// New returns the command doctor.
func New(env *cli.Env) *cobra.Command {
	var asJSON bool
	o := options{version: env.Version}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "say what is wrong with the installation",
		Long:  about,
		RunE:  func(c *cobra.Command, _ []string) error { return run(c.Context(), env, o, asJSON) },
	}
	cli.JSONFlag(c, &asJSON)
	c.Flags().IntVar(&o.instances, "instances", 0, "how many instances are to run (default: as many as run now, and at least one)")
	c.Flags().StringVar(&o.management, "management-url", "", "the management API of RabbitMQ, as in http://rabbitmq:15672; it is asked as the user in the `URL` or, if there is none, in the settings, which needs the tag monitoring")
	c.Flags().DurationVar(&o.timeout, "timeout", 30*time.Second, "how long to wait for each of the two servers")
	return c
}

func run(ctx context.Context, env *cli.Env, o options, asJSON bool) error {
	switch {
	case o.instances < 0:
		return cli.Usagef("--instances must be at least 0, not %d", o.instances)
	case o.timeout <= 0:
		return cli.Usagef("--timeout must be more than 0, not %v", o.timeout)
	}
	r := examine(ctx, env.Environ, o)
	if err := r.print(env, asJSON); err != nil {
		return err
	}
	if r.hasProblem() {
		return cli.WithStatus(cli.StatusFailure, nil)
	}
	return nil
}

// examine makes the report on an installation.
func examine(ctx context.Context, environ []string, o options) *report {
	r := newReport()
	c, err := config.Load(environ)
	if err != nil {
		for _, e := range settingsErrors(err) {
			r.add("settings", "%v", e)
		}
		r.skip("RabbitMQ and PostgreSQL", "the settings are wrong")
		return r
	}
	for _, w := range c.Warnings {
		r.add("settings-warning", "%v", w)
	}
	checkInstanceCertificates(c, time.Now(), r)
	checkAdminToken(&c.HTTP, r)

	o.present = presentParameters(ctx, c, o)
	broker := examineBroker(ctx, c, o, r)
	o.instances = max(o.instances, broker.instances, 1)
	examineDatabase(ctx, c, o, r)
	return r
}

// settingsErrors returns the errors that err joins.
func settingsErrors(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// print prints the report in words, or as JSON.
func (r *report) print(env *cli.Env, asJSON bool) error {
	if asJSON {
		return env.PrintJSON(r)
	}
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s: %s\n    %s\n", f.Level, f.ID, f.Seen, f.Remedy)
	}
	for _, s := range r.Unchecked {
		fmt.Fprintf(&b, "not checked: %s: %s\n", s.What, s.Why)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(&b, "nothing is wrong")
	}
	if _, err := io.WriteString(env.Stdout, b.String()); err != nil {
		return fmt.Errorf("print the findings: %w", err)
	}
	return nil
}

// quiet is the log of functions of the service, whose errors are findings here.
var quiet = zap.NewNop()
