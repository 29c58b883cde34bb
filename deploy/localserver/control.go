package localserver

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// A Control runs the broker's command line tool. Its exported fields do not change.
type Control struct {
	Program string   // rabbitmqctl
	Env     []string // its whole environment
}

// Eval evaluates an Erlang expression in the broker and returns the result as text. This
// takes a second or two.
func (c Control) Eval(ctx context.Context, expression string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Program, "--quiet", "eval", expression)
	cmd.Env = c.Env
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", fmt.Errorf("evaluate an expression in RabbitMQ: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
