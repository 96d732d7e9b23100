package task

import (
	"fmt"
	"testing"
)

// BenchmarkSlice is the codec of a full slice, with ids as the API makes them.
func BenchmarkSlice(b *testing.B) {
	s := slice(0)
	for i := range MaxSlice {
		s.Links = append(s.Links, fmt.Sprintf("pl_%032x", i))
	}
	full, err := s.Task()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Task(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Parse(full.Payload()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
