package web

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// describe is the OpenAPI document of the endpoints. Its schemas are made of the types that are
// encoded.
func describe(endpoints []endpoint) ([]byte, error) {
	schemas := schemas{}
	problems := response("A problem.", map[string]any{"application/problem+json": schemas.of(reflect.TypeFor[problem]())})
	paths := map[string]map[string]any{}
	for _, e := range endpoints {
		if paths[e.path] == nil {
			paths[e.path] = map[string]any{}
		}
		operation := map[string]any{"summary": e.summary, "operationId": operationID(e)}
		var params []any
		for _, name := range placeholders.FindAllStringSubmatch(e.path, -1) {
			params = append(params, map[string]any{"name": name[1], "in": "path", "required": true, "schema": text()})
		}
		for _, p := range e.params {
			params = append(params, map[string]any{"name": p.name, "in": p.in, "description": p.text, "schema": p.schema})
		}
		if len(params) > 0 {
			operation["parameters"] = params
		}
		if e.body != nil {
			content := map[string]any{"application/json": media(schemas.of(reflect.TypeOf(e.body)))}
			if e.reply != nil {
				for _, kind := range e.kinds {
					content[kind] = media(text())
				}
			}
			operation["requestBody"] = map[string]any{"content": content}
		}
		answer := map[string]any{}
		if e.reply != nil {
			answer["application/json"] = schemas.of(reflect.TypeOf(e.reply))
		} else {
			for _, kind := range e.kinds {
				answer[kind] = text()
			}
		}
		responses := map[string]any{"default": problems}
		statuses := e.statuses
		if len(statuses) == 0 {
			statuses = []int{http.StatusOK}
		}
		for _, status := range statuses {
			responses[strconv.Itoa(status)] = response(http.StatusText(status)+".", answer)
		}
		operation["responses"] = responses
		paths[e.path][strings.ToLower(e.method)] = operation
	}
	return json.MarshalIndent(map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "linkcancel", "version": "1",
			"description": "Cancels payment links in bulk. The documents are those that the commands print with --json.",
		},
		"servers":  []any{map[string]any{"url": apiPrefix}},
		"security": []any{map[string]any{"token": []any{}}},
		"paths":    paths,
		"components": map[string]any{
			"schemas":         schemas,
			"securitySchemes": map[string]any{"token": map[string]any{"type": "http", "scheme": "bearer"}},
		},
	}, "", "  ")
}

var placeholders = regexp.MustCompile(`\{(\w+)\}`)

// operationID is, for example, post_batches_id_pause.
func operationID(e endpoint) string {
	return strings.ToLower(e.method) + strings.NewReplacer("/", "_", "{", "", "}", "").Replace(e.path)
}

func media(schema map[string]any) map[string]any { return map[string]any{"schema": schema} }

func response(text string, content map[string]any) map[string]any {
	all := map[string]any{}
	for kind, schema := range content {
		all[kind] = map[string]any{"schema": schema}
	}
	return map[string]any{"description": text, "content": all}
}

func query(name, about string, schema map[string]any) param {
	return param{name, "query", about, schema}
}

// text is the schema of a text, which may be one of some values.
func text(values ...string) map[string]any {
	schema := map[string]any{"type": "string"}
	if len(values) > 0 {
		schema["enum"] = values
	}
	return schema
}

func boolean() map[string]any { return map[string]any{"type": "boolean"} }

// schemas are those of the types with a name.
type schemas map[string]any

// of is the schema of a type, as it is encoded.
func (s schemas) of(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		inner := s.of(t.Elem())
		if kind, ok := inner["type"].(string); ok {
			inner = maps.Clone(inner)
			inner["type"] = []string{kind, "null"}
			return inner
		}
		return map[string]any{"anyOf": []any{inner, map[string]any{"type": "null"}}}
	case reflect.String:
		return text()
	case reflect.Bool:
		return boolean()
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return map[string]any{"type": "string", "format": "date-time"}
		}
		name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
		if s[name] == nil {
			s[name] = map[string]any{} // for types that contain themselves
			s[name] = s.object(t)
		}
		return map[string]any{"$ref": "#/components/schemas/" + name}
	}
	panic(fmt.Sprintf("no schema for %s", t))
}

func (s schemas) object(t reflect.Type) map[string]any {
	properties := map[string]any{}
	required := []string{}
	var add func(reflect.Type)
	add = func(t reflect.Type) {
		for i := range t.NumField() {
			f := t.Field(i)
			tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case f.Anonymous && tag == "":
				add(f.Type)
				continue
			case !f.IsExported() || tag == "-":
				continue
			}
			properties[tag] = s.of(f.Type)
			if options != "omitempty" {
				required = append(required, tag)
			}
		}
	}
	add(t)
	slices.Sort(required)
	return map[string]any{"type": "object", "properties": properties, "required": required}
}
