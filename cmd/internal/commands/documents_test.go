package commands_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/internal/cli"
)

var (
	fence    = regexp.MustCompile("(?ms)^ *```[a-z]*\n(.*?)^ *```")
	codeSpan = regexp.MustCompile("`([^`]+)`")

	// commandLine matches what begins a command line of a program: nothing, variables, or a command that
	// runs the program elsewhere.
	commandLine = regexp.MustCompile(`^(?:#?\s+|\w+=\S+ |ExecStart=|(?:kubectl|docker) .* exec .*? (?:-- )?)*(?:[\w./]*/)?(glotpod-ident(?:-dev|-bench)?)(?: (.*))?$`)
)

// codeOf returns the lines of a document that are code: those of other files than Markdown, blocks, and
// spans.
func codeOf(name, text string) (lines []string) {
	if filepath.Ext(name) != ".md" {
		return strings.Split(text, "\n")
	}
	indent := func(block string) string {
		return strings.ReplaceAll("\n"+fence.FindStringSubmatch(block)[1], "\n", "\n    ")
	}
	var prose strings.Builder
	for line := range strings.Lines(fence.ReplaceAllStringFunc(text, indent)) {
		if strings.HasPrefix(line, "    ") {
			lines = append(lines, strings.TrimSpace(line))
		} else {
			prose.WriteString(line)
		}
	}
	for _, span := range codeSpan.FindAllStringSubmatch(prose.String(), -1) {
		lines = append(lines, strings.Join(strings.Fields(span[1]), " "))
	}
	return lines
}

// shellWords splits the arguments of a command line, up to a comment, a redirection or another command.
func shellWords(line string) (words []string) {
	quoted := regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s'"]+`)
	rest := line
	for rest = strings.TrimLeft(rest, " "); rest != ""; rest = strings.TrimLeft(rest, " ") {
		if strings.ContainsRune("#>|;&(", rune(rest[0])) {
			break
		}
		word := ""
		for rest != "" && rest[0] != ' ' {
			part := quoted.FindString(rest)
			if part == "" {
				return append(words, rest) // an open quote: the line goes on
			}
			rest = rest[len(part):]
			word += strings.Trim(part, `'"`)
		}
		words = append(words, word)
	}
	return words
}

// checkCommandLine checks the arguments of a program without running it.
func checkCommandLine(p cli.Program, args []string) error {
	root := p.Root(new(cli.Env))
	command, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	command.InitDefaultHelpFlag()
	if err := command.ParseFlags(rest); err != nil {
		return command.FlagErrorFunc()(command, err)
	}
	if help, _ := command.Flags().GetBool("help"); help {
		return nil
	}
	if !command.Runnable() && !command.IsAdditionalHelpTopicCommand() {
		return errors.New("not a command")
	}
	if positional := command.Flags().Args(); len(positional) > 0 {
		return command.Args(command, positional)
	}
	return nil // a text may name a command without its arguments
}

// Each command line of a program in documents, units and other files below deploy is valid.
func TestCommandLinesInDocuments(t *testing.T) {
	const root = "../../.."
	all, checked := programs(), 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := filepath.ToSlash(strings.TrimPrefix(path, root+"/"))
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "bin", "node_modules", "testdata"}, entry.Name()):
			return fs.SkipDir
		case entry.IsDir() || !slices.Contains([]string{".md", ".yaml", ".service", ".txt"}, filepath.Ext(name)):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, line := range codeOf(name, string(text)) {
			found := commandLine.FindStringSubmatch(line)
			if found == nil {
				continue
			}
			args := shellWords(found[2])
			if len(args) > 0 && (strings.HasPrefix(args[0], "<") || strings.HasPrefix(args[0], "[")) {
				continue // the form of a command line
			}
			checked++
			if err := checkCommandLine(all[found[1]], args); err != nil {
				t.Errorf("%s: %q: %v", name, line, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 50 {
		t.Errorf("only %d command lines were found", checked)
	}
	t.Logf("%d command lines", checked)
}
