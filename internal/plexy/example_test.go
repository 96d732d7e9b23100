package plexy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"linkcancel/internal/plexy"
)

// One call is one request. The error says whether the API itself answered.
func ExampleClient_Cancel() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/payment-links/pl_1" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"code":5,"message":"the link is paid","type":"validationError"}`)
	}))
	defer api.Close()

	key, err := plexy.NewKey("secret")
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := plexy.New(plexy.Config{BaseURL: api.URL + "/v1", Key: key, Timeout: 5 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.CloseIdle()

	for _, id := range []string{"pl_1", "pl_2"} {
		status, err := client.Cancel(context.Background(), id)
		var answer *plexy.Error
		switch {
		case err == nil:
			fmt.Println(id, status)
		case errors.As(err, &answer):
			fmt.Println(id, status, "proven:", answer.Proven)
			fmt.Println(answer)
		default: // *plexy.TransportError: Sent says whether the request may have arrived
			fmt.Println(err)
		}
	}
	// Output:
	// pl_1 204
	// pl_2 422 proven: true
	// DELETE answered 422 (Unprocessable Entity): code 5, validationError: the link is paid
}
