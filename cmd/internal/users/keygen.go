package users

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/config"
)

// NewKeygen returns the command keygen.
func NewKeygen(env *cli.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "keygen",
		Short: "print a new encryption key",
		Long:  "Prints a new key for database.encryption_key.",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(env.Stdout, config.GenerateKey())
			return err
		},
	}
}
