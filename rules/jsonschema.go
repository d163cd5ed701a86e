package rules

import (
	"io"
)

// js is a JSON Schema or a part of one.
type js = map[string]any

// JSONSchema writes the JSON Schema (draft 2020-12) of rule files, for editors: completion, and most
// mistakes marked while typing. Compile knows more: what expressions mean, and what files say together.
func JSONSchema(w io.Writer) error { return writeJSON(w, jsonSchema()) }

func jsonSchema() js {
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
		"$defs": js{
			"expression": js{"type": []string{"string", "number", "boolean"}, "description": "an expression, for example payload.soc < 15"},
			"duration":   js{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|ms|s|m|h|d))+$`, "description": "500ms, 10s, 5m, 24h, 7d"},
			"template":   js{"type": "string", "minLength": 1, "maxLength": maxTemplate, "description": "text with ${vin}, ${cell}, ${class}, ${payload.kind in kinds}"},
			"value":      js{"description": "an expression, or a mapping or list of such", "type": []string{"string", "number", "boolean", "null", "object", "array"}},
			"schema":     schemaSchema(),
			"rule":       ruleSchema(),
			"kafka":      shape(js{"topic": ref("template"), "key": ref("expression")}, "topic"),
			"central":    shape(js{"lane": js{"enum": []string{"p0", "p1", "p2"}}, "topic": ref("template"), "key": ref("expression")}, "lane", "topic"),
			"redis":      redisSchema(),
			"target":     targetSchema(),
			"zone":       zoneSchema(),
		},
	}
}

func ref(name string) js { return js{"$ref": "#/$defs/" + name} }

func shape(properties js, required ...string) js {
	o := js{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

func oneOf(schemas ...js) js { return js{"oneOf": schemas} }

func whole(lo, hi int) js { return js{"type": "integer", "minimum": lo, "maximum": hi} }

func textOf(description string) js { return js{"type": "string", "description": description} }

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
	expr, duration := ref("expression"), ref("duration")
	return shape(js{
		"id":          js{"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "description": "unique among all files"},
		"owner":       textOf("who answers for the rule"),
		"description": textOf("what it is for"),
		"from":        oneOf(filter, js{"type": "array", "items": filter, "minItems": 1, "maxItems": maxFilters}),
		"when":        expr,
		"sample":      oneOf(duration, shape(js{"every": duration}, "every")),
		"dedupe":      shape(js{"by": expr, "within": duration, "max": whole(1, maxKept)}, "within"),
		"on_change":   oneOf(expr, shape(js{"of": expr}, "of")),
		"threshold":   shape(js{"enter": expr, "exit": expr, "for": duration}, "enter"),
		"geofence": shape(js{
			"lat": expr, "lon": expr, "on": js{"enum": []string{"enter", "exit", "both"}},
			"zones": js{"type": "object", "additionalProperties": ref("zone"), "minProperties": 1, "maxProperties": maxZones},
		}, "lat", "lon", "zones"),
		"rate_limit": shape(js{"count": whole(1, maxKept), "per": duration}, "count", "per"),
		"count":      shape(js{"at_least": whole(1, maxKept), "window": duration}, "at_least", "window"),
		"transform":  ref("value"),
		"to":         oneOf(ref("target"), js{"type": "array", "items": ref("target"), "minItems": 1, "maxItems": maxTargets}),
		"on_error":   shape(js{"kafka": shape(js{"topic": textOf("a Kafka topic")}, "topic")}, "kafka"),
		"mode":       oneOf(js{"enum": []string{"enabled", "disabled", "shadow"}}, shape(js{"canary": percent}, "canary")),
	}, "id", "from", "to")
}

func targetSchema() js {
	var one []js
	for _, s := range []string{"kafka", "redis", "central"} {
		one = append(one, shape(js{s: ref(s)}, s))
	}
	return oneOf(one...)
}

// redisSchema follows redisShapes, which Compile uses too.
func redisSchema() js {
	options := js{
		"set":        js{"type": "object", "additionalProperties": ref("value"), "minProperties": 1},
		"fields":     ref("expression"),
		"newer_than": textOf("the hash field that keeps the time"),
		"value":      ref("expression"), "member": ref("expression"), "lon": ref("expression"), "lat": ref("expression"),
		"max_len": whole(1, 100_000_000), "ttl": ref("duration"),
	}
	var one []js
	for _, s := range redisShapes {
		p := js{s.key: ref("template")}
		for _, o := range s.options {
			p[o] = options[o]
		}
		one = append(one, shape(p, s.key))
	}
	return oneOf(one...)
}

func zoneSchema() js {
	number := func(bound float64) js { return js{"type": "number", "minimum": -bound, "maximum": bound} }
	point := js{"type": "array", "items": js{"type": "number"}, "minItems": 2, "maxItems": 2}
	return oneOf(
		shape(js{"lat": number(90), "lon": number(180), "radius": number(1_000_000)}, "lat", "lon", "radius"),
		shape(js{"polygon": js{"type": "array", "items": point, "minItems": 3, "maxItems": maxZonePts}}, "polygon"),
	)
}
