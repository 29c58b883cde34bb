package cli

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is the number of columns of the help.
const helpWidth = 86

// printHelp prints the help of a command.
func printHelp(command *cobra.Command, _ []string) {
	fmt.Fprint(command.OutOrStdout(), helpText(command))
}

func helpText(command *cobra.Command) string {
	var b strings.Builder
	isTopic := command.IsAdditionalHelpTopicCommand()
	if !isTopic {
		fmt.Fprintf(&b, "Usage: %s\n\n", usageLine(command))
	}
	fmt.Fprintln(&b, about(command))
	for _, group := range command.Groups() {
		printCommands(&b, group.Title, command, func(c *cobra.Command) bool { return c.GroupID == group.ID && c.IsAvailableCommand() })
	}
	title := "Commands"
	if len(command.Groups()) > 0 {
		title = "Other"
	}
	printCommands(&b, title, command, func(c *cobra.Command) bool { return c.GroupID == "" && c.IsAvailableCommand() })
	printCommands(&b, "Help topics", command, (*cobra.Command).IsAdditionalHelpTopicCommand)
	if !isTopic {
		fmt.Fprintf(&b, "\nOptions:\n%s", command.LocalFlags().FlagUsagesWrapped(helpWidth))
	}
	if root := command.Root(); command == root {
		fmt.Fprintf(&b, "\n\"%s help <command>\" describes a command or a topic.\n", root.Name())
	}
	return b.String()
}

// about returns the description of a command.
func about(command *cobra.Command) string {
	if command.Long != "" {
		return command.Long
	}
	return strings.ToUpper(command.Short[:1]) + command.Short[1:] + "."
}

// wrap breaks the lines of a text between words, so that a line has at most width columns
// if its words allow it.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		length := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+length > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += length
	}
	return b.String()
}

// Indent wraps a text to the width of the help, and indents its lines.
func Indent(text string) string { return indent(text, 4) }

func indent(text string, by int) string {
	margin := strings.Repeat(" ", by)
	return margin + strings.ReplaceAll(wrap(text, helpWidth-by), "\n", "\n"+margin)
}

// usageLine returns the form of a command line.
func usageLine(command *cobra.Command) string {
	words := append([]string{command.CommandPath()}, arguments(command)...)
	switch {
	case command.HasAvailableSubCommands() && command.HasParent():
		words = append(words, "<command>")
	case command.HasAvailableSubCommands():
		words = append(words, "[command]")
	}
	if usesOptions(command) {
		words = append(words, "[options]")
	}
	return strings.Join(words, " ")
}

// usesOptions says whether a command has options that not all have.
func usesOptions(command *cobra.Command) (uses bool) {
	command.LocalFlags().VisitAll(func(f *pflag.Flag) { uses = uses || !isCommonOption(f) })
	return uses
}

func isCommonOption(f *pflag.Flag) bool { return f.Name == "help" || f.Name == "version" }

// printCommands prints a line for each command below one that belongs to a list.
func printCommands(b *strings.Builder, title string, command *cobra.Command, belongs func(*cobra.Command) bool) {
	listed := slices.DeleteFunc(slices.Clone(command.Commands()), func(c *cobra.Command) bool { return !belongs(c) })
	if len(listed) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, c := range listed {
		fmt.Fprintf(b, "  %-*s  %s\n", command.NamePadding(), c.Name(), c.Short)
	}
}

func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]…",
		Short: "describe a command or a topic",
		RunE: func(c *cobra.Command, args []string) error {
			described := c.Root()
			for _, name := range args {
				i := slices.IndexFunc(described.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
				if i < 0 {
					return unknownCommand(described, name)
				}
				described = described.Commands()[i]
			}
			described.InitDefaultHelpFlag()
			printHelp(described, nil)
			return nil
		},
		ValidArgsFunction: completeHelp,
	}
}

// completeHelp completes the names of commands and topics.
func completeHelp(c *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	described, _, err := c.Root().Find(args)
	if err == nil {
		for _, c := range described.Commands() {
			if c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand() {
				names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func newCompletion(env *Env) *cobra.Command {
	shells := map[string]func(root *cobra.Command) error{
		"bash": func(root *cobra.Command) error { return root.GenBashCompletionV2(env.Stdout, true) },
		"zsh":  func(root *cobra.Command) error { return root.GenZshCompletion(env.Stdout) },
		"fish": func(root *cobra.Command) error { return root.GenFishCompletion(env.Stdout, true) },
	}
	names := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:   "completion <shell>",
		Short: "print a script that completes command lines in bash, zsh or fish",
		Long: fmt.Sprintf(`Prints a script for a shell (bash, zsh or fish) that completes the command lines of
%[1]s. For all users:

  %[1]s completion bash >/etc/bash_completion.d/%[1]s    (needs bash-completion)
  %[1]s completion zsh  >/usr/local/share/zsh/site-functions/_%[1]s
  %[1]s completion fish >/etc/fish/completions/%[1]s.fish`, env.Program),
		RunE: func(c *cobra.Command, args []string) error {
			printScript := shells[args[0]]
			if printScript == nil {
				return Usagef("the shell is bash, zsh or fish, not %q", args[0])
			}
			return printScript(c.Root())
		},
		ValidArgsFunction: Complete(names),
	}
}
