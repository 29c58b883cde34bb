package deploy_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A document is a Markdown file of the repository.
type document struct {
	text    string
	links   []string // to paths from the root of the repository, with or without an anchor
	anchors []string
}

// readDocuments reads all documents, by their paths from the root of the repository.
func readDocuments(t *testing.T) map[string]*document {
	t.Helper()
	all := make(map[string]*document)
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "bin" || entry.Name() == "node_modules" || entry.Name() == "testdata") {
			return fs.SkipDir
		}
		if filepath.Ext(name) == ".md" {
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			name := filepath.ToSlash(strings.TrimPrefix(name, "../"))
			all[name] = parseDocument(path.Dir(name), string(text))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	codeBlock = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	noAnchor  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`) // what GitHub leaves out of the anchor of a heading
)

func parseDocument(folder, text string) *document {
	d := &document{text: text}
	prose := codeBlock.ReplaceAllString(text, "")
	for _, found := range link.FindAllStringSubmatch(prose, -1) {
		target := found[1]
		switch {
		case strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:"):
		case strings.HasPrefix(target, "#"):
			d.links = append(d.links, target)
		default:
			d.links = append(d.links, path.Join(folder, target))
		}
	}
	for _, found := range heading.FindAllStringSubmatch(prose, -1) {
		anchor := noAnchor.ReplaceAllString(strings.ToLower(found[1]), "")
		d.anchors = append(d.anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return d
}

// TestLinks: what the documents refer to exists.
func TestLinks(t *testing.T) {
	documents := readDocuments(t)
	checked := 0
	for name, d := range documents {
		for _, target := range d.links {
			checked++
			file, anchor, _ := strings.Cut(target, "#")
			if file == "" {
				file = name
			}
			if _, err := os.Stat(filepath.Join("..", file)); err != nil {
				t.Errorf("%s refers to %s: %v", name, target, err)
			} else if to := documents[file]; anchor != "" && (to == nil || !slices.Contains(to.anchors, anchor)) {
				t.Errorf("%s refers to %s, and there is no such heading", name, target)
			}
		}
	}
	if checked < 50 {
		t.Errorf("%d links were found", checked)
	}
}

// TestReach: each document is at most two links away from README.md.
func TestReach(t *testing.T) {
	documents := readDocuments(t)
	distance := map[string]int{"README.md": 0}
	for queue := []string{"README.md"}; len(queue) > 0; queue = queue[1:] {
		from := documents[queue[0]]
		if from == nil {
			continue // not a document, such as a folder
		}
		for _, target := range from.links {
			file, _, _ := strings.Cut(target, "#")
			if _, known := distance[file]; !known && file != "" {
				distance[file] = distance[queue[0]] + 1
				queue = append(queue, file)
			}
		}
	}
	for name := range documents {
		if steps, reached := distance[name]; !strings.HasPrefix(name, ".github/ISSUE") && (!reached || steps > 2) {
			t.Errorf("README.md leads to %s in %d steps (reached: %v)", name, steps, reached)
		}
	}
}

// TestReadmeLength: a newcomer reads the whole README.
func TestReadmeLength(t *testing.T) {
	if lines := strings.Count(readDocuments(t)["README.md"].text, "\n"); lines > 200 {
		t.Errorf("README.md has %d lines; 200 are enough", lines)
	}
}

// TestVersion: the chart has the version of the newest heading of the changelog.
func TestVersion(t *testing.T) {
	newest := regexp.MustCompile(`(?m)^## \[([0-9][^]]*)\] - \d{4}-\d\d-\d\d$`).FindStringSubmatch(readDocuments(t)["deploy/CHANGELOG.md"].text)
	chart, err := os.ReadFile("chart/Chart.yaml")
	if err != nil || newest == nil {
		t.Fatal(err, newest)
	}
	for _, key := range []string{"version", "appVersion"} {
		if !regexp.MustCompile(`(?m)^` + key + `: ` + regexp.QuoteMeta(newest[1]) + `( |$)`).Match(chart) {
			t.Errorf("Chart.yaml has another %s than the changelog, %s", key, newest[1])
		}
	}
}

// TestMakeTargets: the documents name targets that exist.
func TestMakeTargets(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range readDocuments(t) {
		for _, found := range regexp.MustCompile("(?m)(?:^    |`)make ([a-z-]+)(?:[ `]|$)").FindAllStringSubmatch(d.text, -1) {
			if !regexp.MustCompile(`(?m)^` + found[1] + `:`).Match(makefile) {
				t.Errorf("%s tells to run make %s, which does not exist", name, found[1])
			}
		}
	}
}
