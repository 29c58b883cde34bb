package commands_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/commands"
)

var update = flag.Bool("update", false, "write the help texts into cmd/COMMANDS.md")

// output runs a program and returns its standard output. It fails unless the program succeeds.
func output(t *testing.T, p cli.Program, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if status := p.Run(t.Context(), &cli.Env{Stdout: &stdout, Stderr: &stderr}, args); status != 0 || stderr.Len() > 0 {
		t.Fatalf("%s %q ended with %d: %s", p.Name, args, status, &stderr)
	}
	return stdout.String()
}

// A helpText is the help of a command.
type helpText struct{ path, text string }

// helpTexts returns the help of a command and of the commands below it.
func helpTexts(t *testing.T, p cli.Program, command *cobra.Command) []helpText {
	t.Helper()
	words := strings.Fields(command.CommandPath())
	text := output(t, p, append(words[1:], "--help")...)
	if byCommand := output(t, p, append([]string{"help"}, words[1:]...)...); byCommand != text {
		t.Errorf("%q and help print different texts: %s", words, byCommand)
	}
	if strings.Contains(text, "      --json ") != (strings.Contains(text, "JSON document") || strings.Contains(text, "With --json")) {
		t.Errorf("the help of %s has --json without the keys, or the keys without it", command.CommandPath())
	}
	texts := []helpText{{command.CommandPath(), text}}
	for _, c := range command.Commands() {
		if !c.Hidden && c.Name() != "help" {
			texts = append(texts, helpTexts(t, p, c)...)
		}
	}
	return texts
}

const commandsIntro = `# Commands

What the programs print as help. Options have two dashes and may stand anywhere. A script can rely on the
options, on the [exit statuses](#glotpod-ident-exit-status) and on the keys of JSON documents: they stay, while
further keys may come and texts for people may change.

    glotpod-ident completion bash    # or zsh or fish: a script that completes command lines
    man bin/man/glotpod-ident.1      # the same as a manual page, with all settings

`

// commandsPage returns the page with all help texts.
func commandsPage(t *testing.T) string {
	var list, b strings.Builder
	all := programs()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := all[name]
		for _, h := range helpTexts(t, p, p.Root(new(cli.Env))) {
			words := strings.Fields(h.path)
			if name != commands.Name && slices.Contains([]string{"version", "completion", "exit-status"}, words[len(words)-1]) {
				continue // as for glotpod-ident
			}
			fmt.Fprintf(&list, "%s- [%s](#%s)\n", strings.Repeat("  ", len(words)-1), h.path, strings.Join(words, "-"))
			fmt.Fprintf(&b, "\n## %s\n\n```text\n%s```\n", h.path, h.text)
		}
	}
	return commandsIntro + list.String() + b.String()
}

func TestHelp(t *testing.T) {
	const file = "../../COMMANDS.md"
	page := commandsPage(t)
	if *update {
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != page {
		t.Errorf("cmd/COMMANDS.md shows other help texts than there are (%v); `go test ./cmd/internal/commands -run Help -update` writes it", err)
	}
}

func TestSettings(t *testing.T) {
	p := commands.Program("v1")
	one := output(t, p, "settings", "amqp.port")
	for _, says := range []string{"amqp.port\n", "GLOTPOD_IDENT__AMQP__PORT", "5672, or 5671 with amqp.ssl", "from 1 to 65535"} {
		if !strings.Contains(one, says) {
			t.Errorf("%q is missing in %s", says, one)
		}
	}
	if byVariable := output(t, p, "settings", "GLOTPOD_IDENT__AMQP__PORT"); byVariable != one {
		t.Errorf("by its variable: %s", byVariable)
	}
	section, all := output(t, p, "settings", "amqp"), output(t, p, "settings")
	if !strings.Contains(section, one) || strings.Contains(section, "audit.keep") || !strings.Contains(all, section) || !strings.Contains(all, "audit.keep") {
		t.Errorf("the section amqp: %s", section)
	}
	if strings.ContainsAny(all, "`") || strings.Contains(all, "](") {
		t.Error("the text has Markdown")
	}
	if text := output(t, p, "settings", "log.level", "--json"); !strings.Contains(text, `"default": "info"`) {
		t.Errorf("as JSON: %s", text)
	}
	var stdout, stderr bytes.Buffer
	status := p.Run(t.Context(), &cli.Env{Stdout: &stdout, Stderr: &stderr}, []string{"settings", "amqp.prot"})
	if status != cli.StatusUsage || !strings.Contains(stderr.String(), `no setting "amqp.prot"; did you mean amqp.port?`) {
		t.Errorf("status %d: %s", status, &stderr)
	}
}

// Each manual page is sound, and describes all commands.
func TestManualPages(t *testing.T) {
	for name, p := range programs() {
		page := output(t, p, "man")
		lint := exec.Command("mandoc", "-T", "lint", "-W", "warning")
		lint.Stdin = strings.NewReader(page)
		complaints, err := lint.CombinedOutput()
		for line := range strings.Lines(string(complaints)) {
			if !strings.Contains(line, "missing date") { // the build knows the date of the commit
				t.Errorf("%s: %s", name, line)
			}
		}
		if len(complaints) == 0 && err != nil {
			t.Errorf("mandoc, which `make test` installs: %v", err)
		}
		for _, h := range helpTexts(t, p, p.Root(new(cli.Env))) {
			if !strings.Contains(page, strings.ReplaceAll(h.path, "-", `\-`)) && !strings.HasSuffix(h.path, "exit-status") {
				t.Errorf("%s does not describe %s", name, h.path)
			}
		}
	}
}

// The runbook describes each exit status.
func TestExitStatusesInRunbook(t *testing.T) {
	runbook, err := os.ReadFile("../../../deploy/guide/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(runbook), "\n## Exit statuses\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var described []string
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 2 && strings.Trim(cells[1], " 0123456789") == "" {
			described = append(described, strings.TrimSpace(cells[1]))
		}
	}
	var exist []string
	help := output(t, commands.Program("v1"), "help", "exit-status")
	for line := range strings.Lines(help) {
		if number, _, found := strings.Cut(strings.TrimSpace(line), "  "); found && strings.Trim(number, "0123456789") == "" {
			exist = append(exist, number)
		}
	}
	if !slices.Equal(described, exist) || len(exist) != 6 {
		t.Errorf("the runbook describes %q, and there are %q", described, exist)
	}
}
