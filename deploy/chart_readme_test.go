package deploy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	valuesFile  = "chart/values.yaml"
	chartReadme = "chart/README.md" // what `helm show readme` prints
)

// TestChartReadme: the reference of the chart's values is what values.yaml says, and the
// schema knows the same values.
func TestChartReadme(t *testing.T) {
	text, err := os.ReadFile(valuesFile)
	if err != nil {
		t.Fatal(err)
	}
	var values yaml.Node
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	want := valuesReference(&values)
	if *update {
		if err := os.WriteFile(chartReadme, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(chartReadme); err != nil || string(got) != want {
		t.Errorf("%s is not what %s says; run `go test ./deploy -run ChartReadme -update` (%v)", chartReadme, valuesFile, err)
	}

	var schema struct{ Properties map[string]any }
	content, err := os.ReadFile(schemaFile)
	if err == nil {
		err = json.Unmarshal(content, &schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	delete(schema.Properties, "global") // Helm gives it to every chart
	var named []string
	pairs(values.Content[0], func(key, value *yaml.Node) {
		named = append(named, key.Value)
		if comment(key, value) == "" {
			t.Errorf("%s does not say what %s is", valuesFile, key.Value)
		}
	})
	slices.Sort(named)
	if known := slices.Sorted(maps.Keys(schema.Properties)); !slices.Equal(known, named) {
		t.Errorf("the schema has the values %v, and %s has %v", known, valuesFile, named)
	}
}

// valuesReference returns a document that describes the values with their comments.
func valuesReference(file *yaml.Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The values of the chart\n\n[Run it in Kubernetes](../guide/kubernetes.md) says how to use the chart.\n\n%s",
		markdown(file.HeadComment))
	b.WriteString("`go test ./deploy -run ChartReadme -update` writes this document from values.yaml.\n")
	pairs(file.Content[0], func(key, value *yaml.Node) {
		fmt.Fprintf(&b, "\n## `%s`\n\n%s", key.Value, markdown(comment(key, value)))
		if value.Kind != yaml.MappingNode || value.Style == yaml.FlowStyle {
			fmt.Fprintf(&b, "\nDefault: `%s`\n", initial(value))
			return
		}
		b.WriteString("\n| value | default | |\n|---|---|---|\n")
		writeRows(&b, key.Value, value)
	})
	return b.String()
}

// writeRows writes a row for each value in a map.
func writeRows(b *strings.Builder, path string, value *yaml.Node) {
	pairs(value, func(key, value *yaml.Node) {
		name := path + "." + key.Value
		said := strings.ReplaceAll(strings.Join(strings.Fields(strings.ReplaceAll(comment(key, value), "#", "")), " "), "|", `\|`)
		if value.Kind == yaml.MappingNode && value.Style != yaml.FlowStyle {
			if said != "" {
				fmt.Fprintf(b, "| `%s` | | %s |\n", name, said)
			}
			writeRows(b, name, value)
			return
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s |\n", name, initial(value), said)
	})
}

func pairs(mapping *yaml.Node, do func(key, value *yaml.Node)) {
	for i := 0; i < len(mapping.Content); i += 2 {
		do(mapping.Content[i], mapping.Content[i+1])
	}
}

// comment returns the lines above a key, and behind it or its value.
func comment(key, value *yaml.Node) string {
	return strings.Trim(strings.Join([]string{key.HeadComment, key.LineComment, value.LineComment}, "\n"), "\n")
}

// initial returns a default in one line.
func initial(value *yaml.Node) string {
	bare := *value
	bare.HeadComment, bare.LineComment, bare.FootComment = "", "", ""
	bare.Style |= yaml.FlowStyle
	text, err := yaml.Marshal(&bare)
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

// markdown returns the paragraphs of a comment. A paragraph whose lines are all indented is an example.
func markdown(comment string) string {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(comment, "\n#\n") {
		lines := strings.Split(paragraph, "\n")
		example := true
		for i, line := range lines {
			lines[i] = strings.TrimPrefix(strings.TrimPrefix(line, "#"), " ")
			example = example && strings.HasPrefix(lines[i], "  ")
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		if text := strings.Join(lines, "\n"); example {
			fmt.Fprintf(&b, "```yaml\n%s\n```\n", strings.ReplaceAll(text[2:], "\n  ", "\n"))
		} else if text != "" {
			b.WriteString(text + "\n")
		}
	}
	return b.String()
}
