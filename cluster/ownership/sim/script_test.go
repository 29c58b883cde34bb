package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
)

var update = flag.Bool("update", false, "write what happens into the scripts")

// Each script in testdata says what happens to some instances, and what they do then. A
// paragraph is a comment, or commands, "----", and what the instances did. Each message
// between processes takes a millisecond.
//
//	partitions N               sets the number of partitions; comes first
//	launch NAME [queue=TYPE]   starts a process
//	run D                      advances the time by D
//	settle                     advances the time until the instances are settled
//	owners                     prints the owner of each partition by the epoch table
//	crash|cut NAME             ends a process, or its connection
//	freeze NAME D [connected]  stops a process for D; "connected": the broker does not notice
//	leave|drain|undrain NAME   asks an instance to do so
//	database down D            runs no statement for D
//	broker down D              closes all connections, and accepts none for D
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("%s differs (see it with -update and git diff):\n%s", file, got)
			}
		})
	}
}

// runScript runs a script and returns it with what the instances did.
func runScript(t *testing.T, script string) string {
	var trace strings.Builder
	w := newWorld(setting{seed: 1, fixed: true, writeEvery: 100 * time.Millisecond}, func(format string, args ...any) {
		fmt.Fprintf(&trace, format+"\n", args...)
	})
	paragraphs := strings.Split(strings.TrimRight(script, "\n"), "\n\n")
	for n, paragraph := range paragraphs {
		if strings.HasPrefix(paragraph, "#") {
			continue
		}
		commands, _, _ := strings.Cut(paragraph, "\n----")
		for line := range strings.Lines(commands) {
			if err := w.runCommand(strings.Fields(line)); err != nil {
				t.Fatalf("%s: %v", strings.TrimSpace(line), err)
			}
		}
		paragraphs[n] = strings.TrimSpace(commands) + "\n----\n" + strings.TrimRight(trace.String(), "\n")
		trace.Reset()
	}
	if len(w.failures) > 0 {
		t.Errorf("%s", strings.Join(w.failures, "\n"))
	}
	return strings.Join(paragraphs, "\n\n") + "\n"
}

// runCommand runs a command of a script.
func (w *world) runCommand(words []string) error {
	argument := func(n int) string {
		if n < len(words) {
			return words[n]
		}
		return ""
	}
	pause := func(n int) time.Duration {
		d, err := time.ParseDuration(argument(n))
		if err != nil {
			panic(err)
		}
		return d
	}
	name := argument(1)
	i := w.find(name)
	switch words[0] {
	case "partitions":
		n, err := strconv.Atoi(name)
		w.setting.partitions = n
		w.open()
		return err
	case "launch":
		w.launch(name, func(cfg *ownership.Config) {
			if queue, ok := strings.CutPrefix(argument(2), "queue="); ok {
				cfg.QueueType = queue
			}
		})
	case "run":
		w.run(pause(1))
	case "settle":
		took := w.settle(settleLimit)
		w.trace("%8.3fs settled after %v", w.elapsed().Seconds(), took)
	case "owners":
		var owners []string
		for _, row := range w.epochs.rows {
			owner := row.Holder.String()
			if row.Released {
				owner = "nobody"
			}
			owners = append(owners, fmt.Sprintf("%s@%d", owner, row.Epoch))
		}
		w.trace("%s", strings.Join(owners, " "))
	case "crash":
		i.exit(2 * time.Millisecond)
	case "cut":
		w.broker.drop(i.connection)
		i.noticeLoss(i.connection)
	case "freeze":
		i.freeze(pause(2), argument(3) == "connected")
	case "leave":
		i.post(ownership.LeaveRequested{})
	case "drain":
		i.post(ownership.DrainRequested{})
	case "undrain":
		i.post(ownership.UndrainRequested{})
	case "database":
		w.epochs.outage(pause(2))
	case "broker":
		w.broker.restart(pause(2))
	default:
		return fmt.Errorf("no such command: %s", words[0])
	}
	return nil
}
