package operate

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// TestReadmeCommands pastes the commands of README.md into a shell.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) == 0 {
		t.Fatal("README.md has no commands")
	}
	s := harness.NewSite(t)
	s.Serve(t)
	programs := harness.LinkPrograms(t)
	for _, block := range blocks {
		commands := strings.ReplaceAll(block[1], "bin/glotpod-ident", programs+"/glotpod-ident")
		p := harness.LaunchProgram(t, "/bin/sh", s.Settings.Environ(), "-exc", commands)
		if status, stdout, stderr := p.AwaitOutput(t); status != 0 || strings.Count(stdout, "Ada") < 3 {
			t.Errorf("the commands ended with %d:\n%s%s", status, stdout, stderr)
		}
	}
}
