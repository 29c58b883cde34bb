package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Usagef returns an error for wrong arguments.
func Usagef(format string, args ...any) error {
	return WithStatus(StatusUsage, fmt.Errorf(format, args...))
}

// valueTypes says in words which values the flags of a type take.
var valueTypes = map[string]string{
	"bool":     "true or false",
	"duration": "a duration with a unit, as in 90s or 5m",
	"int":      "a whole number",
	"int64":    "a whole number",
}

// explainFlagError says in plain words what is wrong with a flag.
func explainFlagError(command *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var valueless *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		option := "--" + unknown.GetSpecifiedName()
		if letters := unknown.GetSpecifiedShortnames(); letters != "" {
			option = "-" + letters
		}
		return Usagef("no option %s%s", option, DidYouMean(option, options(command)))
	case errors.As(err, &valueless):
		return Usagef("--%s needs a value", valueless.GetFlag().Name)
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		if values, known := valueTypes[f.Value.Type()]; known {
			return Usagef("--%s must be %s, not %q", f.Name, values, invalid.GetValue())
		}
		return Usagef("--%s: %w", f.Name, invalid.Unwrap())
	}
	return WithStatus(StatusUsage, err)
}

// options returns the options of a command with their dashes.
func options(command *cobra.Command) (known []string) {
	command.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
	return known
}
