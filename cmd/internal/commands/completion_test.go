package commands_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/internal/bench"
	"github.com/glotpod/ident/cmd/internal/commands"
	"github.com/glotpod/ident/cmd/internal/devcluster"
)

// shellTimeout bounds a script that completes a few command lines.
const shellTimeout = 30 * time.Second

// A completion is a command line that begins, and words that complete its last one.
type completion struct {
	line string
	some []string // of the words, in any order
}

var completions = []completion{
	{commands.Name + " sta", []string{"status"}},
	{commands.Name + " d", []string{"drain", "doctor"}},
	{commands.Name + " help exit", []string{"exit-status"}},
	{commands.Name + " settings database.postgres.po", []string{"database.postgres.port"}},
	{commands.Name + " settings amqp.h", []string{"amqp.host", "amqp.heartbeat"}},
	{commands.Name + " status --", []string{"--json", "--timeout"}},
	{commands.Name + " user ", []string{"show", "changes", "erase"}},
	{commands.Name + " call cha", []string{"changes"}},
	{commands.Name + " export --tokens o", []string{"omit"}},
	{commands.Name + " completion f", []string{"fish"}},
	{commands.Name + " import help_", []string{"help_test.go"}},
	{devcluster.Name + " --log-format j", []string{"json"}},
	{bench.Name + " --queue-type q", []string{"quorum"}},
	{bench.Name + " comp", []string{"compare", "completion"}},
}

// runShell runs a script in a shell in which the programs are on the PATH.
func runShell(t *testing.T, shell string, args ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for name := range programs() {
		if err := os.Symlink(self, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), shellTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, args...)
	home := t.TempDir()
	cmd.Env = []string{"PATH=" + folder + ":" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8", "TERM=dumb"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s (`make test` installs it): %v\n%s%s", shell, err, out, &stderr)
	}
	return string(out)
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	t.Run("bash", testBash)
	t.Run("fish", testFish)
	t.Run("zsh", testZsh)
}

// check compares the words that complete a line with those that should be among them.
func (c completion) check(t *testing.T, words []string) {
	t.Helper()
	for _, word := range c.some {
		if !slices.Contains(words, word) {
			t.Errorf("%q is completed by %q, not by %s", c.line, words, word)
		}
	}
}

// wordsOf returns the words of a text, folders without the slash.
func wordsOf(text string) (words []string) {
	for word := range strings.FieldsSeq(text) {
		words = append(words, strings.TrimSuffix(word, "/"))
	}
	return words
}

func testBash(t *testing.T) {
	t.Parallel()
	// The function is called as bash does when the tab key is pressed.
	const script = `
for folder in /usr/share /opt/homebrew/share /usr/local/share; do
	file=$folder/bash-completion/bash_completion
	[ ! -e $file ] || . $file
done
for program in glotpod-ident glotpod-ident-dev glotpod-ident-bench; do . <($program completion bash); done
for line in "$@"; do
	read -ra COMP_WORDS <<<"$line"
	case $line in *' ') COMP_WORDS+=('') ;; esac
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9
	COMPREPLY=()
	"__start_${COMP_WORDS[0]}" 2>/dev/null
	[ ${#COMPREPLY[@]} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
	echo "${COMPREPLY[*]%% *}"
done`
	args := []string{"--norc", "-c", script, "bash"}
	for _, c := range completions {
		args = append(args, c.line)
	}
	lines := strings.Split(runShell(t, "bash", args...), "\n")
	for i, c := range completions {
		c.check(t, strings.Fields(lines[i]))
	}
}

func testFish(t *testing.T) {
	t.Parallel()
	const script = `
for program in glotpod-ident glotpod-ident-dev glotpod-ident-bench; $program completion fish | source; end
for line in $argv; complete --do-complete $line | string replace -r '\t.*' ''; echo .; end`
	args := []string{"--no-config", "-c", script}
	for _, c := range completions {
		args = append(args, c.line)
	}
	answers := strings.Split(runShell(t, "fish", args...), "\n.\n")
	for i, c := range completions {
		c.check(t, wordsOf(answers[i]))
	}
}

// zsh completes only on a terminal. There, ^T prints the line after all keys before it.
func testZsh(t *testing.T) {
	t.Parallel()
	const script = `
zmodload zsh/zpty
zpty -b shell zsh -f -i
zpty -w shell 'PS1= LISTMAX=1000; setopt no_beep no_list_ambiguous; unset zle_bracketed_paste; stty columns 400'
zpty -w shell 'print_line() { zle -I; print -r -- "$BUFFER @e""nd"; BUFFER= }; zle -N print_line; bindkey ^T print_line'
zpty -w shell 'autoload -U compinit; compinit -u -D'
for program in glotpod-ident glotpod-ident-dev glotpod-ident-bench; do zpty -w shell "source <($program completion zsh)"; done
zpty -w shell 'print @rea""dy'
zpty -r -m shell seen '*@ready*'
for line in "$@"; do
	zpty -w -n shell "$line"$'\t\x14'
	zpty -r -m shell seen '*@end*'
	print -r -- "$seen"
done`
	args := []string{"-f", "-c", script, "zsh"}
	for _, c := range completions {
		args = append(args, c.line)
	}
	answers := strings.Split(runShell(t, "zsh", args...), "@end")
	for i, c := range completions {
		c.check(t, wordsOf(answers[i]))
	}
}
