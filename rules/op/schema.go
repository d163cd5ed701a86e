package op

// JSON is a JSON Schema or a part of one.
type JSON = map[string]any

// Ref returns a reference to a definition.
func Ref(name string) JSON { return JSON{"$ref": "#/$defs/" + name} }

// Shape returns the schema of a mapping with fixed keys.
func Shape(properties JSON, required ...string) JSON {
	o := JSON{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

// OneOf returns the schema of a value in one of several forms.
func OneOf(schemas ...JSON) JSON { return JSON{"oneOf": schemas} }

func whole(lo, hi int) JSON { return JSON{"type": "integer", "minimum": lo, "maximum": hi} }

// TextOf returns the schema of a text.
func TextOf(description string) JSON { return JSON{"type": "string", "description": description} }

func keysSchema(keys []Key) JSON {
	properties := JSON{}
	var required []string
	for i := range keys {
		properties[keys[i].Name] = keys[i].Value.schema
		if keys[i].Need != "" {
			required = append(required, keys[i].Name)
		}
	}
	s := Shape(properties, required...)
	if keys[0].Alone {
		return OneOf(keys[0].Value.schema, s)
	}
	return s
}

// JSONSchema returns the schema of the operator's key in a rule.
func (op *Operator) JSONSchema() JSON { return keysSchema(op.Keys) }

// JSONSchema returns the schema of the target's key in `to`.
func (t *Target) JSONSchema() JSON {
	if t.Schema != nil {
		return t.Schema()
	}
	return keysSchema(t.Keys)
}
