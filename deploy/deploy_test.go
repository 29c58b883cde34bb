// Package deploy_test checks that the files in this folder match the program, and that
// the module keeps the rules of its layout.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/glotpod/ident/config"
)

var update = flag.Bool("update", false, "write the settings into chart/values.schema.json")

const schemaFile = "chart/values.schema.json"

// setByChart are the settings that the chart sets by itself.
var setByChart = []string{"cluster.instance", "http.listen", "http.pprof", "shutdown.grace"}

func TestChartSchema(t *testing.T) {
	content, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(content, &schema); err != nil {
		t.Fatal(err)
	}
	want := settingsSchema(t)
	values := schema["properties"].(map[string]any)
	if reflect.DeepEqual(values["settings"], want) {
		return
	}
	if !*update {
		t.Fatalf("%s has other settings than the program; run `go test ./deploy -run ChartSchema -update`", schemaFile)
	}
	values["settings"] = want
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(schemaFile, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// settingsSchema returns a JSON Schema of the settings file, without the settings in
// setByChart, as decoded JSON.
func settingsSchema(t *testing.T) any {
	t.Helper()
	root := table()
	for _, e := range config.Reference() {
		if slices.Contains(setByChart, e.Key) {
			continue
		}
		s, err := valueSchema(e)
		if err != nil {
			t.Fatal(err)
		}
		s["description"] = e.Help
		path := strings.Split(e.Key, ".")
		in := root
		for _, section := range path[:len(path)-1] {
			inner, ok := properties(in)[section].(object)
			if !ok {
				inner = table()
				properties(in)[section] = inner
			}
			in = inner
		}
		properties(in)[path[len(path)-1]] = s
	}
	text, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	var decoded any
	if err := json.Unmarshal(text, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

type object = map[string]any

func table() object {
	return object{"type": "object", "additionalProperties": false, "properties": object{}}
}

func properties(table object) object { return table["properties"].(object) }

// valueSchema returns the schema of one setting, derived from the reference's description
// of its values.
func valueSchema(e config.Entry) (object, error) {
	var low, high int64
	if _, err := fmt.Sscanf(e.Value, "a whole number from %d to %d", &low, &high); err == nil {
		return object{"type": "integer", "minimum": low, "maximum": high}, nil
	}
	if words, ok := strings.CutPrefix(e.Value, "one of "); ok {
		return object{"enum": strings.Split(words, ", ")}, nil
	}
	if strings.HasPrefix(e.Value, "a duration ") {
		return object{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(h|m|s|ms|us|µs|ns))+$`}, nil
	}
	if strings.HasPrefix(e.Value, "one or several of host") {
		return object{"type": "string", "minLength": 1}, nil
	}
	var least, most float64
	if _, err := fmt.Sscanf(e.Value, "a number from %g to %g in steps of 0.1", &least, &most); err == nil {
		return object{"type": "number", "minimum": least, "maximum": most}, nil // multipleOf fails for 0.3
	}
	switch e.Value {
	case "true or false":
		return object{"type": "boolean"}, nil
	case "a number from 0 to 1":
		return object{"type": "number", "minimum": 0, "maximum": 1}, nil
	case "text":
		return object{"type": "string"}, nil
	case "text that is not empty", "the path of a file":
		return object{"type": "string", "minLength": 1}, nil
	case "a list of names, or names separated by commas":
		return object{"oneOf": []object{{"type": "string"}, {"type": "array", "items": object{"type": "string", "minLength": 1}}}}, nil
	case "a key, or a list of keys":
		key := object{"type": "string", "minLength": 1}
		return object{"oneOf": []object{key, {"type": "array", "items": key, "minItems": 1}}}, nil
	case "an http or https URL without a user or a query, or empty for none":
		return object{"type": "string", "pattern": "^(https?://[^/?#@]+[^?#@]*)?$"}, nil
	}
	return nil, fmt.Errorf("%s: there is no schema yet for %q", e.Key, e.Value)
}

// TestVariables checks that the files name no environment variable that does not exist.
func TestVariables(t *testing.T) {
	known := make(map[string]bool)
	for _, e := range config.Reference() {
		known[e.Variable] = true
	}
	variable := regexp.MustCompile(`GLOTPOD_IDENT__[A-Z_]*`)
	found := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".go") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, name := range variable.FindAllString(string(content), -1) {
			found++
			if !known[name] {
				t.Errorf("%s: no setting has the variable %s", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("no file names any variable")
	}
}

// TestImageGoVersion checks that the image is built with a Go that go.mod accepts. The
// Dockerfile must name the full version, so that builds are reproducible.
func TestImageGoVersion(t *testing.T) {
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	image := regexp.MustCompile(`(?m)^FROM .*golang:(\d+)\.(\d+)\.(\d+)-`).FindSubmatch(dockerfile)
	wants := regexp.MustCompile(`(?m)^go (\d+)\.(\d+)\.(\d+)$`).FindSubmatch(module)
	if image == nil || wants == nil {
		t.Fatalf("no full version in the Dockerfile (%q) or in go.mod (%q)", image, wants)
	}
	if slices.Compare(numbers(image[1:]), numbers(wants[1:])) < 0 {
		t.Errorf("the image is built with Go %q, and go.mod requires %q", image[1:], wants[1:])
	}
}

func numbers(texts [][]byte) []int {
	var all []int
	for _, text := range texts {
		n, _ := strconv.Atoi(string(text))
		all = append(all, n)
	}
	return all
}

// TestEventAlerts: the alerts that the table of events names exist.
func TestEventAlerts(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	alerts := read("chart/files/alerts.yaml")
	_, table, found := strings.Cut(read("../cluster/HOW.md"), "| event | consequence | pause of a partition | alert if it lasts |\n")
	if !found {
		t.Fatal("there is no table of events")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	named := regexp.MustCompile("`(Ident[A-Za-z]+)`").FindAllStringSubmatch(table, -1)
	if len(named) < 10 {
		t.Errorf("the table names %d alerts", len(named))
	}
	for _, name := range named {
		if !strings.Contains(alerts, "alert: "+name[1]+"\n") {
			t.Errorf("the table names the alert %s, which does not exist", name[1])
		}
	}
}
