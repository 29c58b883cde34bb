package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

const callAbout = `Sends one request to the service over RabbitMQ, as callers do, and prints the
result as JSON.

Arguments have the form name=value. A dot in the name addresses a key of a map.
Ids and page_size are integers, user_ids are integers separated by commas, other
values are strings. With name:=value, the value is JSON.

  glotpod-ident call get user_id=1
  glotpod-ident call create name=Ada email=ada@example.org github.id=7 github.access_token=secret
  glotpod-ident call patch user_id=1 --ops '[{"op": "replace", "path": "/name", "value": "Ada L."}]'
  glotpod-ident call get_many user_ids=1,2,3
  glotpod-ident call list name=ada page_size=10
  glotpod-ident call changes page_size=10
  glotpod-ident call delete user_id=1

An error reply is printed on standard error, as JSON with the keys error, message and
retryable.

Exit status: 0 if the reply is a result, 1 if it is an error, 3 if no reply came
in time.`

// callOptions are the options of the command call.
type callOptions struct {
	ops        string
	showTokens bool
	timeout    time.Duration
	messageID  string
}

// NewCall returns the command call.
func NewCall(env *cli.Env) *cobra.Command {
	var o callOptions
	c := &cobra.Command{
		Use:               "call <operation> [name=value]…",
		Short:             "send one request to the service and print the result",
		Long:              callAbout,
		ValidArgsFunction: completeRequest,
		RunE:              func(c *cobra.Command, args []string) error { return runCall(c.Context(), env, args, o) },
	}
	c.Flags().StringVar(&o.ops, "ops", "", "the `JSON` Patch of a patch")
	c.Flags().BoolVar(&o.showTokens, "show-tokens", false, "print access tokens instead of ***")
	c.Flags().DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for the reply")
	c.Flags().StringVar(&o.messageID, "message-id", "", "the `id` of the request; a request with the same id is applied only once")
	return c
}

// operations has the arguments of each operation.
var operations = map[string][]string{
	"get":      {"user_id=", "email=", "github_id=", "facebook_id="},
	"get_many": {"user_ids="},
	"create":   {"name=", "email=", "picture_url=", "github.id=", "github.access_token=", "facebook.id=", "facebook.access_token="},
	"patch":    {"user_id=", "--ops"},
	"list":     {"name=", "page_size=", "after_id="},
	"changes":  {"page_size=", "after="},
	"delete":   {"user_id="},
}

// completeRequest completes the operation, and then the names of its arguments.
func completeRequest(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return slices.Sorted(maps.Keys(operations)), cobra.ShellCompDirectiveNoFileComp
	}
	return operations[args[0]], cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func runCall(ctx context.Context, env *cli.Env, args []string, o callOptions) error {
	request, err := parseRequest(args[1:], o.ops)
	if err != nil {
		return cli.WithStatus(cli.StatusUsage, err)
	}
	c, err := config.LoadClient(env.Environ)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	result, err := call(ctx, c, env.Version, args[0], o.messageID, request)
	refusal, isRefusal := errors.AsType[*client.Error](err)
	switch {
	case isRefusal:
		if err := cli.PrintJSON(env.Stderr, errorReply(refusal)); err != nil {
			return err
		}
		return cli.WithStatus(cli.StatusFailure, nil)
	case errors.Is(err, wait.ErrUnreachable):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, client.ErrNoService):
		return cli.WithStatus(cli.StatusNoReply, err)
	case err != nil:
		return err
	}
	if !o.showTokens {
		maskTokens(result)
	}
	return env.PrintJSON(result)
}

// call sends a request and returns the decoded result.
func call(ctx context.Context, c *config.Config, version, operation, messageID string, request map[string]any) (any, error) {
	args, err := msgp.AppendMapStrIntf(nil, request)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	caller, err := connect.Client(ctx, c, "call", version)
	if err != nil {
		return nil, err
	}
	defer caller.Close()
	if messageID != "" {
		ctx = client.WithMessageID(ctx, messageID)
	}
	result, err := caller.Do(ctx, client.Request{Operation: operation, Args: args})
	if err != nil {
		return nil, err
	}
	msg, err := msgpack.Decode(result, msgpack.Limits{Bytes: math.MaxInt, Depth: 1000, Values: math.MaxInt})
	if err != nil {
		return nil, client.ErrMalformed
	}
	return msg.Tree, nil
}

// errorReply returns an error reply as the service sends it.
func errorReply(e *client.Error) map[string]any {
	return map[string]any{"error": e.Code, "message": e.Message, "retryable": e.Retryable}
}

const mask = "***"

// maskTokens replaces access tokens in a reply. They occur in users and in the values of
// JSON Patch operations.
func maskTokens(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			maskTokens(e)
		}
	case map[string]any:
		if path, _ := v["path"].(string); strings.HasSuffix(path, "/access_token") && v["value"] != nil {
			v["value"] = mask
		}
		for key, e := range v {
			if key == "access_token" {
				v[key] = mask
			} else {
				maskTokens(e)
			}
		}
	}
}

// integers are the names of the arguments whose values are integers.
var integers = []string{"user_id", "github_id", "facebook_id", "after_id", "page_size", "id", "github.id", "facebook.id"}

// parseRequest makes a request from arguments of the form name=value.
func parseRequest(args []string, ops string) (map[string]any, error) {
	request := make(map[string]any)
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		if !ok || name == "" || name == ":" {
			return nil, fmt.Errorf("argument %q is not name=value", name)
		}
		var value any = text
		if raw, ok := strings.CutSuffix(name, ":"); ok {
			parsed, err := parseJSON(text)
			if err != nil {
				return nil, fmt.Errorf("argument %s: %w", raw, err)
			}
			name, value = raw, parsed
		} else if slices.Contains(integers, name) {
			n, err := parseIntegers(text)
			if err != nil || len(n) != 1 {
				return nil, fmt.Errorf("argument %s is not a 64-bit integer", name)
			}
			value = n[0]
		} else if name == "user_ids" {
			n, err := parseIntegers(text)
			if err != nil {
				return nil, fmt.Errorf("argument %s is not 64-bit integers separated by commas", name)
			}
			value = n
		}
		if err := setPath(request, strings.Split(name, "."), value); err != nil {
			return nil, fmt.Errorf("argument %s: %w", name, err)
		}
	}
	if ops != "" {
		value, err := parseJSON(ops)
		if err != nil {
			return nil, fmt.Errorf("--ops: %w", err)
		}
		request["ops"] = value
	}
	return request, nil
}

// parseIntegers parses integers separated by commas.
func parseIntegers(text string) (all []any, err error) {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseInt(part, 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// setPath sets the value at a path.
func setPath(in map[string]any, path []string, value any) error {
	for _, key := range path[:len(path)-1] {
		if in[key] == nil {
			in[key] = make(map[string]any)
		}
		next, ok := in[key].(map[string]any)
		if !ok {
			return fmt.Errorf("%s is not a map", key)
		}
		in = next
	}
	last := path[len(path)-1]
	if _, taken := in[last]; taken {
		return errors.New("given twice")
	}
	in[last] = value
	return nil
}

// parseJSON decodes JSON and keeps integers.
func parseJSON(text string) (any, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("not JSON: there is text after the value")
	}
	return convertNumbers(v), nil
}

// convertNumbers replaces each json.Number in v with an int64, uint64 or float64.
func convertNumbers(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = convertNumbers(v[i])
		}
	case map[string]any:
		for _, key := range slices.Collect(maps.Keys(v)) {
			v[key] = convertNumbers(v[key])
		}
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return v
}
