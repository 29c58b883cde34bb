package cli

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A Section is a part of a program's manual page beside those that each program has.
type Section struct {
	Title string
	Text  string // as a help text
}

// newMan returns the command man, which the build runs.
func newMan(env *Env, sections func() []Section) *cobra.Command {
	return &cobra.Command{
		Use:    "man",
		Short:  "print the manual page",
		Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []Section
			if sections != nil {
				all = sections()
			}
			_, err := fmt.Fprint(env.Stdout, manualPage(c.Root(), all))
			return err
		},
	}
}

// manualPage returns the manual page of a program in the macros of man(7).
func manualPage(root *cobra.Command, sections []Section) string {
	var m manual
	m.line(".TH %q 1 %q %q", strings.ToUpper(root.Name()), commitDate(), root.Name()+" "+root.Version)
	m.section("NAME")
	m.line("%s", escapeRoff(root.Name()+" - "+root.Short))
	m.section("SYNOPSIS")
	m.line("%s", escapeRoff(usageLine(root)))
	m.section("DESCRIPTION")
	m.text(root.Long)
	if usesOptions(root) {
		m.section("OPTIONS")
		m.options(root)
	}
	m.section("COMMANDS")
	m.commands(root)
	for _, s := range sections {
		m.section(s.Title)
		m.text(s.Text)
	}
	for _, topic := range root.Commands() {
		if topic.IsAdditionalHelpTopicCommand() {
			m.section(strings.ToUpper(strings.ReplaceAll(topic.Name(), "-", " ")))
			m.text(topic.Long)
		}
	}
	return m.b.String()
}

// commitDate returns the date of the commit that the program was built from, or "" if it is
// unknown.
func commitDate() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			date, _, _ := strings.Cut(s.Value, "T")
			return date
		}
	}
	return ""
}

// A manual is a manual page that is being written.
type manual struct{ b strings.Builder }

func (m *manual) line(format string, args ...any) { fmt.Fprintf(&m.b, format+"\n", args...) }

func (m *manual) section(title string) { m.line(".SH %s", escapeRoff(title)) }

// text writes a help text. Lines that are indented are not filled.
func (m *manual) text(text string) {
	inExample := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		isExample := strings.HasPrefix(line, " ")
		switch {
		case line == "" && !inExample:
			m.line(".PP")
			continue
		case isExample && !inExample:
			m.line(".nf")
		case !isExample && inExample:
			m.line(".fi")
			inExample = false
			if line == "" {
				m.line(".PP")
				continue
			}
		}
		inExample = isExample
		m.line("%s", escapeRoff(line))
	}
	if inExample {
		m.line(".fi")
	}
}

// commands writes the commands below one, each with those below it.
func (m *manual) commands(parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		m.line(".SS %s", escapeRoff(usageLine(c)))
		m.text(about(c))
		if usesOptions(c) {
			m.options(c)
		}
		m.commands(c)
	}
}

func (m *manual) options(c *cobra.Command) {
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if isCommonOption(f) {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		m.line(".TP")
		m.line(".B %s", escapeRoff(strings.TrimSpace("--"+f.Name+" "+value)))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			usage += " (default " + f.DefValue + ")"
		}
		m.line("%s", escapeRoff(usage))
	})
}

// escapeRoff escapes the characters of a line that roff would interpret.
func escapeRoff(line string) string {
	line = strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`).Replace(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	return line
}
