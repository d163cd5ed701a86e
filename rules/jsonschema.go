package rules

import (
	"io"
)

// JSONSchema writes the JSON Schema (draft 2020-12) of rule files, for editors: completion, and most
// mistakes marked while typing. Compile knows more: what expressions mean, and what files say together.
func JSONSchema(w io.Writer) error { return writeJSON(w, jsonSchema()) }

func jsonSchema() js {
	defs := js{
		"expression": js{"type": []string{"string", "number", "boolean"}, "description": "an expression, for example payload.soc < 15"},
		"duration":   js{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|ms|s|m|h|d))+$`, "description": "500ms, 10s, 5m, 24h, 7d"},
		"template":   js{"type": "string", "minLength": 1, "maxLength": maxTemplate, "description": "text with ${vin}, ${cell}, ${class}, ${payload.kind in kinds}"},
		"value":      js{"description": "an expression, or a mapping or list of such", "type": []string{"string", "number", "boolean", "null", "object", "array"}},
		"schema":     schemaSchema(),
		"rule":       ruleSchema(),
		"zone":       zoneSchema(),
	}
	var targets []js
	for _, t := range Targets() {
		name := string(t.Kind)
		defs[name] = t.JSONSchema()
		targets = append(targets, shape(js{name: ref(name)}, name))
	}
	defs["target"] = oneOf(targets...)
	return js{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "cellgate rules",
		"description": "A *.rules.yaml file of a cellgate gateway.",
		"type":        "object", "additionalProperties": false,
		"properties": js{
			"lists":  js{"type": "object", "description": "constants by name", "additionalProperties": js{"type": "array", "items": js{"type": []string{"string", "number", "boolean"}}}},
			"macros": js{"type": "object", "description": "expressions by name", "additionalProperties": ref("expression")},
			"schema": ref("schema"),
			"rules":  js{"type": []string{"array", "null"}, "items": ref("rule")},
		},
		"$defs": defs,
	}
}

func schemaSchema() js {
	return shape(js{
		"event_at": oneOf(textOf("the payload field with the event time"), shape(js{
			"field": textOf("the payload field"), "unit": js{"enum": []string{"auto", "s", "ms"}},
		}, "field")),
		"fields": js{"type": "object", "description": "types by field: number, integer, text, boolean, list, object, any"},
		"open":   js{"type": "boolean", "description": "other fields may be used too"},
	})
}

func ruleSchema() js {
	filter := js{"type": "string", "minLength": 1}
	percent := js{"type": "string", "pattern": `^[0-9.]+ *%$`}
	keys := js{
		"id":          js{"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "description": "unique among all files"},
		"owner":       textOf("who answers for the rule"),
		"description": textOf("what it is for"),
		"from":        oneOf(filter, js{"type": "array", "items": filter, "minItems": 1, "maxItems": maxFilters}),
		"when":        ref("expression"),
		"transform":   ref("value"),
		"to":          oneOf(ref("target"), js{"type": "array", "items": ref("target"), "minItems": 1, "maxItems": maxTargets}),
		"on_error":    shape(js{"kafka": shape(js{"topic": textOf("a Kafka topic")}, "topic")}, "kafka"),
		"mode":        oneOf(js{"enum": []string{"enabled", "disabled", "shadow"}}, shape(js{"canary": percent}, "canary")),
	}
	for _, op := range Operators() {
		keys[op.Name] = op.JSONSchema()
	}
	return shape(keys, "id", "from", "to")
}
