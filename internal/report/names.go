package report

import (
	"slices"
	"strconv"
	"strings"
)

// ownNames returns the report's own columns, with lc_ where the user's file has that name.
func ownNames(theirs, columns []string) []string {
	names := make([]string, len(columns))
	for i, name := range columns {
		for taken(theirs, name) {
			name = "lc_" + name
		}
		names[i] = name
	}
	return names
}

func taken(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		return strings.EqualFold(strings.TrimSpace(n), name)
	})
}

// jsonNames returns the names of all columns as distinct, non-empty JSON keys. A header may
// repeat a name, but most readers of JSON keep only the last of equal keys.
func jsonNames(theirs, columns []string) []string {
	keys := make([]string, 0, len(theirs)+len(columns))
	used := make(map[string]bool)
	for i, name := range theirs {
		if strings.TrimSpace(name) == "" {
			name = "column_" + strconv.Itoa(i+1)
		}
		key := name
		for n := 2; used[key]; n++ {
			key = name + "_" + strconv.Itoa(n)
		}
		used[key] = true
		keys = append(keys, key)
	}
	return append(keys, ownNames(keys, columns)...)
}
