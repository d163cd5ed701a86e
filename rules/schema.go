package rules

// js is a JSON Schema or a part of one.
type js = map[string]any

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

// keysSchema is the schema of a mapping of keys.
func keysSchema(keys []Key) js {
	properties := js{}
	var required []string
	for i := range keys {
		properties[keys[i].Name] = keys[i].Value.schema
		if keys[i].Need != "" {
			required = append(required, keys[i].Name)
		}
	}
	s := shape(properties, required...)
	if keys[0].Alone {
		return oneOf(keys[0].Value.schema, s)
	}
	return s
}

// JSONSchema is the schema of the operator's key in a rule.
func (op *Operator) JSONSchema() js { return keysSchema(op.Keys) }

// JSONSchema is the schema of the target's key in `to`.
func (t *Target) JSONSchema() js {
	if t.Schema != nil {
		return t.Schema()
	}
	return keysSchema(t.Keys)
}
