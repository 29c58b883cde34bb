package workload

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

// Report fails for each problem, up to a number that a person can read.
func Report(t *testing.T, problems []string) {
	t.Helper()
	const most = 20
	for i, p := range problems {
		if i == most {
			t.Errorf("and %d more problems", len(problems)-most)
			return
		}
		t.Error(p)
	}
}

// CheckAnswered returns the operations without a reply.
func CheckAnswered(operations []*Operation) (problems []string) {
	for _, o := range operations {
		if o.open {
			problems = append(problems, fmt.Sprintf("not answered: %v", o))
		}
	}
	return problems
}

// Differences returns the users that differ from their notifications.
func Differences(stored, told map[int64]View) (problems []string) {
	ids := maps.Clone(stored)
	maps.Copy(ids, told)
	for id := range ids {
		if stored[id] != told[id] {
			problems = append(problems, fmt.Sprintf("stored is %+v\nbut told was %+v", stored[id], told[id]))
		}
	}
	return problems
}

// Summary describes the load in one line.
func Summary(l *Load, operations []*Operation) string {
	tries, late := 0, 0
	longest := operations[0]
	outcomes := make(map[string]int)
	for _, o := range operations {
		tries += o.tries - 1
		if o.ret-o.call > longest.ret-longest.call {
			longest = o
		}
		outcomes[strings.TrimSpace(o.kind+" "+o.reply.code)]++
	}
	for _, c := range l.callers {
		late += c.late
	}
	return fmt.Sprintf("%d operations in %.1f s, %v; %d retries, %d late answers; the longest operation was %v",
		len(operations), l.now().Seconds(), outcomes, tries, late, longest)
}
