package workbench

import (
	"io"

	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
)

// schemaFile is the name of the schema next to the shipped rules.
const schemaFile = "rules.schema.json"

// JSONSchema writes the JSON Schema (draft 2020-12) of rule files, for completion and checks in editors. Compile checks
// more: expressions, and files together.
func JSONSchema(w io.Writer, targets op.Targets) error { return writeJSON(w, jsonSchema(targets)) }

func jsonSchema(all op.Targets) op.JSON {
	defs := op.JSON{
		"expression": op.JSON{"type": []string{"string", "number", "boolean"}, "description": "an expression, for example payload.soc < 15"},
		"duration":   op.JSON{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|ms|s|m|h|d))+$`, "description": "500ms, 10s, 5m, 24h, 7d"},
		"template":   op.JSON{"type": "string", "minLength": 1, "maxLength": expr.MaxTemplate, "description": "text with ${vin}, ${cell}, ${class}, ${payload.kind in kinds}"},
		"value":      op.JSON{"description": "an expression, or a mapping or list of such", "type": []string{"string", "number", "boolean", "null", "object", "array"}},
		"transform":  transformSchema(),
		"schema":     schemaSchema(),
		"field":      fieldSchema(),
		"rule":       ruleSchema(),
		"zone":       op.ZoneSchema(),
	}
	var targets []op.JSON
	for _, t := range all {
		name := string(t.Kind)
		defs[name] = t.JSONSchema()
		targets = append(targets, op.Shape(op.JSON{name: op.Ref(name)}, name))
	}
	defs["target"] = op.OneOf(targets...)
	return op.JSON{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "cellgate rules",
		"description": "A *.rules.yaml file of a cellgate gateway.",
		"type":        "object", "additionalProperties": false,
		"properties": op.JSON{
			"lists": op.JSON{"type": "object", "description": "constants by name", "additionalProperties": op.JSON{"type": "array", "items": op.JSON{"type": []string{"string", "number", "boolean"}}}},
			"zones": op.JSON{"type": "object", "description": "zones by name, for inside(lat, lon, name)", "additionalProperties": op.OneOf(op.Ref("zone"),
				op.Shape(op.JSON{"file": op.TextOf("a GeoJSON file next to this one")}, "file"))},
			"tables": op.JSON{"type": "object", "description": "CSV files by name, for name[key].column", "additionalProperties": op.Shape(op.JSON{
				"file": op.TextOf("a CSV file next to this one"), "key": op.TextOf("the column by which rows are found"),
			}, "file", "key")},
			"macros": op.JSON{"type": "object", "description": "expressions by name", "additionalProperties": op.Ref("expression")},
			"schema": op.Ref("schema"),
			"rules":  op.JSON{"type": []string{"array", "null"}, "items": op.Ref("rule")},
		},
		"$defs": defs,
	}
}

// transformSchema returns the schema of both forms of a transform: an expression or a mapping of expressions, and one
// that keeps parts of the payload.
func transformSchema() op.JSON {
	fields := op.JSON{"type": "array", "items": op.TextOf("a payload field, for example driver or position.lat")}
	return op.JSON{"anyOf": []op.JSON{op.Shape(op.JSON{
		"keep": op.OneOf(op.JSON{"const": "payload"}, fields), "drop": fields, "missing": op.JSON{"enum": []string{"omit", "null"}},
		"set": op.JSON{"type": "object", "description": "values by name", "additionalProperties": op.Ref("value")},
	}), op.Ref("value")}}
}

func schemaSchema() op.JSON {
	return op.Shape(op.JSON{
		"event_at": op.OneOf(op.TextOf("the payload field with the event time"), op.Shape(op.JSON{
			"field": op.TextOf("the payload field"), "unit": op.JSON{"enum": []string{"auto", "s", "ms"}},
		}, "field")),
		"fields": op.JSON{"type": "object", "description": "types by field", "additionalProperties": op.Ref("field")},
		"open":   op.JSON{"type": "boolean", "description": "other fields may be used too"},
	})
}

// fieldSchema returns the schema of a field's type: a word, a number with bounds, or an object's fields.
func fieldSchema() op.JSON {
	bounds := op.JSON{"type": "array", "items": op.JSON{"type": "number"}, "minItems": 2, "maxItems": 2, "description": "the least and the greatest"}
	outside := op.JSON{"enum": []string{"error", "missing"}, "description": "what a number outside is"}
	return op.JSON{"anyOf": []op.JSON{
		{"enum": []string{"number", "integer", "text", "string", "boolean", "bool", "list", "object", "any"}},
		op.Shape(op.JSON{"number": bounds, "outside": outside}, "number"),
		op.Shape(op.JSON{"integer": bounds, "outside": outside}, "integer"),
		{"type": "object", "additionalProperties": op.Ref("field")},
	}}
}

func ruleSchema() op.JSON {
	filter := op.JSON{"type": "string", "minLength": 1}
	percent := op.JSON{"type": "string", "pattern": `^[0-9.]+ *%$`}
	keys := op.JSON{
		"id":          op.JSON{"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "description": "unique among all files"},
		"owner":       op.TextOf("who is responsible for the rule"),
		"description": op.TextOf("what it is for"),
		"from":        op.OneOf(filter, op.JSON{"type": "array", "items": filter, "minItems": 1, "maxItems": lang.MaxFilters}),
		"when":        op.Ref("expression"),
		"each":        op.TextOf("a list in the message; each element is processed as a message, for example payload.alarms"),
		"time":        op.JSON{"enum": []string{"received", "event"}},
		"having":      op.Ref("expression"),
		"transform":   op.Ref("transform"),
		"to":          op.OneOf(op.Ref("target"), op.JSON{"type": "array", "items": op.Ref("target"), "minItems": 1, "maxItems": lang.MaxTargets}),
		"on_error": op.OneOf(op.JSON{"const": "none"}, op.Shape(op.JSON{"kafka": op.Shape(op.JSON{
			"topic": op.TextOf("a Kafka topic"), "payload": op.JSON{"const": "none"},
		}, "topic")}, "kafka")),
		"mode": op.OneOf(op.JSON{"enum": []string{"enabled", "disabled", "shadow"}}, op.Shape(op.JSON{
			"canary": percent, "salt": op.TextOf("a word that selects other vehicles"), "arm": op.JSON{"enum": []string{"canary", "control"}},
		}, "canary")),
	}
	keys["limits"] = op.Shape(op.JSON{"errors": op.JSON{"type": "string", "pattern": `^[0-9.]+% per [0-9.]+(s|m|h) then shadow$`}}, "errors")
	for _, op := range op.Operators() {
		keys[op.Name] = op.JSONSchema()
	}
	return op.Shape(keys, "id", "from", "to")
}
