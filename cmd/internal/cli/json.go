package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// JSONFlag adds the option --json to a command.
func JSONFlag(command *cobra.Command, asJSON *bool) {
	command.Flags().BoolVar(asJSON, "json", false, "print JSON, for programs")
}

// PrintJSON prints a JSON document on standard output.
func (e *Env) PrintJSON(v any) error { return PrintJSON(e.Stdout, v) }

// PrintJSON prints a JSON document in lines for people.
func PrintJSON(w io.Writer, v any) error { return printJSON(w, "  ", v) }

// PrintJSONLine prints a JSON document as one line.
func PrintJSONLine(w io.Writer, v any) error { return printJSON(w, "", v) }

func printJSON(w io.Writer, indent string, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
