package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/glotpod/ident/config"
)

// The help lists commands in the order in which they are added.
func init() { cobra.EnableCommandSorting = false }

// AddGroup adds commands that the help shows below a title.
func AddGroup(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, c := range commands {
		c.GroupID = title
		root.AddCommand(c)
	}
}

// prepare makes command and the commands below it check their arguments, and completes
// no names of files where no file is meant.
func prepare(command *cobra.Command) {
	if command.HasSubCommands() && !command.Runnable() {
		command.RunE = func(c *cobra.Command, _ []string) error {
			return Usagef("a command is missing: %s", strings.Join(subcommands(c), ", "))
		}
	}
	if command.Args == nil {
		command.Args = checkArguments
	}
	if command.ValidArgsFunction == nil && !strings.Contains(command.Use, "file") {
		command.ValidArgsFunction = cobra.NoFileCompletions
	}
	command.Flags().VisitAll(func(f *pflag.Flag) {
		if _, completes := command.GetFlagCompletionFunc(f.Name); completes {
			return
		}
		switch what, _ := pflag.UnquoteUsage(f); what {
		case "file":
		case "folder":
			command.MarkFlagDirname(f.Name)
		default:
			command.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
		}
	})
	for _, c := range command.Commands() {
		prepare(c)
	}
}

// subcommands returns the names of the commands below one.
func subcommands(command *cobra.Command) (names []string) {
	for _, c := range command.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// arguments returns the arguments that Use of a command lists.
func arguments(command *cobra.Command) []string { return strings.Fields(command.Use)[1:] }

// checkArguments compares the arguments of a command with those that Use lists.
func checkArguments(command *cobra.Command, args []string) error {
	listed := arguments(command)
	if len(listed) == 0 && len(args) > 0 && command.HasAvailableSubCommands() {
		return unknownCommand(command, args[0])
	}
	for i, argument := range listed {
		if i >= len(args) && strings.HasPrefix(argument, "<") {
			return Usagef("the argument %s is missing", argument)
		}
	}
	repeated := slices.ContainsFunc(listed, func(a string) bool { return strings.HasSuffix(a, "…") })
	if len(args) > len(listed) && !repeated {
		return Usagef("unexpected argument %q", args[len(listed)])
	}
	return nil
}

func unknownCommand(parent *cobra.Command, name string) error {
	return Usagef("no command %q%s", name, DidYouMean(name, subcommands(parent)))
}

// DidYouMean returns the end of an error about an unknown name: the known name that is
// most similar, or "" if none is.
func DidYouMean(name string, known []string) string {
	if similar := config.Nearest(name, known); similar != "" {
		return "; did you mean " + similar + "?"
	}
	return ""
}

// Complete returns what completes the first arguments of a command, each from a list.
// An entry may have a description behind a tab.
func Complete(lists ...[]string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return lists[len(args)], cobra.ShellCompDirectiveNoFileComp
	}
}

// CompleteFlag makes the values of a flag known to completion.
func CompleteFlag(command *cobra.Command, flag string, values ...string) {
	err := command.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the command has no such flag
	}
}
