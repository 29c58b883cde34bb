package users

import (
	"context"
	"fmt"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/config"
)

// Keygen is the command keygen.
var Keygen = cli.Command{Name: "keygen", Summary: "print a new encryption key", Run: runKeygen}

func runKeygen(_ context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("", "Prints a new key for database.encryption_key.")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	fmt.Fprintln(env.Stdout, config.GenerateKey())
	return cli.StatusOK
}
