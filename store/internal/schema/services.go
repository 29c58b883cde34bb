package schema

// ServiceNames gives for each service the name that callers use. The keys are the values
// of the type svc_type.
var ServiceNames = map[string]string{"gh": "github", "fb": "facebook"}
