package plexy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// documented is the example of the vendor's Retrieve Payment Link page.
const documented = `{"amount":1000000,"autoClearing":true,"createdAt":"2025-03-01T12:00:00Z","currency":"KZT","customerId":"string",
 "description":"Payment for services","expiresAt":"2025-03-14T00:00:00Z","id":"pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f",
 "metadata":{"callbackUrl":"https://example.com/callback","cancelUrl":"https://example.com/cancel",
 "failureUrl":"https://example.com/failure","successUrl":"https://example.com/success"},
 "orderReference":"ORD123456","status":"active","updatedAt":"2025-03-01T12:30:00Z",
 "url":"https://checkout.plexypay.com/pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f","validation":false,"createdBy":"string"}`

func TestGet(t *testing.T) {
	for body, want := range map[string]Link{
		documented: {
			ID: testID, Status: "active",
			CreatedAt: time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC), ExpiresAt: time.Date(2025, 3, 14, 0, 0, 0, 0, time.UTC),
			Amount: 1_000_000, Currency: "KZT",
		},
		`{ID,"status":"Canceled"}`:                                                 {ID: testID, Status: "Canceled"},
		`{ID,"status":"new one","expiresAt":null}`:                                 {ID: testID, Status: "new one"},
		`{ID,"status":"active","expiresAt":"soon","createdAt":null,"amount":"12"}`: {ID: testID, Status: "active", Amount: 12, ExpiresNote: DateNote{Unreadable: true, Text: "soon"}},
		`{ID,"status":"active","expires_at":1741910400,"created_at":"2025-02-28"}`: {
			ID: testID, Status: "active", ExpiresAt: time.Date(2025, 3, 14, 0, 0, 0, 0, time.UTC),
			CreatedAt: time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC), CreatedNote: DateNote{NoZone: true, Text: "2025-02-28"},
		},
		`{ID,"status":"active","amount":1.5,"currency":[],"url":{}}`: {ID: testID, Status: "active"},
		`{ID,"status":"is sk_test_0123456789/\"abc"}`:                {ID: testID, Status: "is [redacted]"},
		// The path may have had the external id.
		`{"id":"pl_other","externalId":"` + testID + `","status":"paid"}`: {ID: testID, Status: "paid"},
		`{"id":7,"external_id":"` + testID + `","status":"paid"}`:         {ID: testID, Status: "paid"},
		`{"external_id":"` + testID + `","status":"paid"}`:                {ID: testID, Status: "paid"},
		`{ID,"externalId":"other","status":"paid"}`:                       {ID: testID, Status: "paid"},
	} {
		body = strings.Replace(body, "{ID", `{"id":"`+testID+`"`, 1)
		c := serve(t, reply(200, body))
		got, err := c.Get(t.Context(), testID)
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
}

func TestGetNoLink(t *testing.T) {
	for body, want := range map[string]string{
		"":                                    "it is empty",
		"null":                                "null",
		"<html>Welcome</html>":                "<html>Welcome</html>",
		`"active"`:                            `"active"`,
		"[]":                                  "[]",
		"{}":                                  "it has no status",
		`{"status":""}`:                       "it has no status",
		`{"status":"  "}`:                     "it has no status",
		`{"status":null}`:                     "it has no status",
		`{"status":1}`:                        "it has no status",
		`{"Status":"active"}`:                 "it has no status",
		`{"status":"active"} x`:               `{"status":"active"} x`,
		`{"status":"active","id":"pl_other"}`: "another payment link: pl_other",
		`{"status":"active","id":7}`:          "another payment link: 7",
		`{"status":"active"}`:                 "it has no id",
		`{"status":"active","id":null}`:       "it has no id",
		`{"status":"active","ID":"` + testID + `"}`:                      "it has no id",
		`{"status":"active","id":"` + strings.ToUpper(testID) + `"}`:     "another payment link: PL_",
		`{"status":"active","id":"` + testID + ` "}`:                     "another payment link: pl_",
		`{"status":"active","id":["` + testID + `"]}`:                    "it has no id",
		`{"status":"active","data":{"id":"` + testID + `"}}`:             "it has no id",
		`{"status":"active","id":"pl_other","externalId":"other"}`:       "another payment link: pl_other",
		`{"status":"active","x":"` + strings.Repeat("x", maxBody) + `"}`: "longer than 64 KiB",
	} {
		c := serve(t, reply(200, body))
		_, err := c.Get(t.Context(), testID)
		if !isAPIError(err, 200) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %s", body, err, want)
		}
	}
	c := serve(t, reply(404, documented))
	if _, err := c.Get(t.Context(), testID); !isAPIError(err, 404) {
		t.Errorf("404 with a link: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	for status, want := range map[string]bool{
		"cancelled": true, "CANCELED": true, "active": false, "": false, "paid": false, "cancel": false,
	} {
		if got := Cancelled(status); got != want {
			t.Errorf("%q: %v, want %v", status, got, want)
		}
	}
}
