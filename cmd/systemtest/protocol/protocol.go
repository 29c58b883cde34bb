// Package protocol compares messages with cluster/asyncapi.yaml, so that the document cannot
// differ from what the service does.
package protocol

import (
	"fmt"
	"os"
	"strings"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// file is the path of the document from the folder of each package below cmd/systemtest.
const file = "../../../cluster/asyncapi.yaml"

// A Document is an AsyncAPI document.
type Document struct {
	tree     map[string]any
	compiler *jsonschema.Compiler

	mu      sync.Mutex // guards the compiler and the following field
	schemas map[string]*jsonschema.Schema
}

func parse(strict bool) (*Document, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := &Document{compiler: jsonschema.NewCompiler(), schemas: make(map[string]*jsonschema.Schema)}
	if err := yaml.Unmarshal(text, &d.tree); err != nil {
		return nil, err
	}
	if strict {
		d.makeStrict()
	}
	d.compiler.DefaultDraft(jsonschema.Draft7) // that of AsyncAPI
	return d, d.compiler.AddResource(resource, d.tree)
}

// resource is the name of the document in references.
const resource = "asyncapi"

var load = sync.OnceValues(func() (*Document, error) { return parse(true) })

// Load returns the document for this version of the service. In it, the messages that the service
// sends have no members and error codes but those that the document names: a caller passes over
// others, but this version sends none.
func Load() (*Document, error) { return load() }

func (d *Document) components() map[string]any {
	components, _ := d.tree["components"].(map[string]any)
	schemas, _ := components["schemas"].(map[string]any)
	return schemas
}

func (d *Document) makeStrict() {
	schemas := d.components()
	for name, schema := range schemas {
		if name != "op" && !strings.HasSuffix(name, "_headers") {
			forbidOthers(schema)
		}
	}
	schemas["code"] = d.code()
}

// forbidOthers forbids further members of all objects in a schema.
func forbidOthers(node any) {
	switch node := node.(type) {
	case map[string]any:
		if node["type"] == "object" {
			node["additionalProperties"] = false
		}
		for _, e := range node {
			forbidOthers(e)
		}
	case []any:
		for _, e := range node {
			forbidOthers(e)
		}
	}
}

// code returns the schema of the error codes of this version.
func (d *Document) code() any {
	code, _ := d.components()["code"].(map[string]any)
	if choices, _ := code["anyOf"].([]any); len(choices) > 0 {
		return choices[0]
	}
	return code
}

// Names returns the names in a part of the document, such as "operations" or
// "components/schemas".
func (d *Document) Names(part string) (names []string) {
	node := d.tree
	for name := range strings.SplitSeq(part, "/") {
		node, _ = node[name].(map[string]any)
	}
	for name := range node {
		names = append(names, name)
	}
	return names
}

// Codes returns the error codes.
func (d *Document) Codes() (codes []string) {
	code, _ := d.code().(map[string]any)
	all, _ := code["enum"].([]any)
	for _, c := range all {
		codes = append(codes, fmt.Sprint(c))
	}
	return codes
}

// Check returns an error unless a decoded message has the schema of a name.
func (d *Document) Check(name string, message any) error {
	schema, err := d.schema(name)
	if err != nil {
		return err
	}
	if err := schema.Validate(asJSON(message)); err != nil {
		return fmt.Errorf("%.300v is not as cluster/asyncapi.yaml says: %w", message, err)
	}
	return nil
}

func (d *Document) schema(name string) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.schemas[name]; s != nil {
		return s, nil
	}
	s, err := d.compiler.Compile(resource + "#/components/schemas/" + name)
	d.schemas[name] = s
	return s, err
}

// CheckReply checks the reply to a request for an operation. A request that got a result is
// checked too; the arguments of one that was refused may be anything.
func CheckReply(operation string, request, reply any) error {
	d, err := Load()
	if err != nil {
		return err
	}
	members, _ := reply.(map[string]any)
	if _, isError := members["error"]; isError {
		return d.Check("error_reply", reply)
	}
	if err := d.Check(operation+"_reply", reply); err != nil {
		return err
	}
	return d.Check(operation, request)
}

// CheckNotification checks a notification. headers may lack what the AMQP library has apart.
func CheckNotification(key, messageID string, headers amqp.Table, body any) error {
	d, err := Load()
	if err != nil {
		return err
	}
	name := map[string]string{
		"notifications.user.create": "user", "notifications.user.patch": "user_patched", "notifications.user.delete": "user_deleted",
	}[key]
	if err := d.Check(name, body); err != nil {
		return err
	}
	all := map[string]any{"message_id": messageID}
	for name, v := range headers {
		all[name] = v
	}
	return d.Check("notification_headers", all)
}

// asJSON returns a decoded message with the types of JSON: bytes are text, which they are in the
// old form of msgpack.
func asJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		all := make(map[string]any, len(v))
		for key, e := range v {
			all[key] = asJSON(e)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, e := range v {
			all[i] = asJSON(e)
		}
		return all
	case []byte:
		return string(v)
	case float32:
		return float64(v)
	}
	return v
}
