// The page of `make docs`: Swagger UI over openapi.yaml.

// "Execute" asks the server of this page, which forwards the request to the function. The function sends no CORS
// headers, so a browser would not show this page a response from the function's own port.
const askThisServer = () => ({
  statePlugins: {
    spec: {
      wrapActions: {
        updateJsonSpec: (original) => (document) =>
          original({ ...document, servers: [{ url: location.origin, description: "the function of make run" }] }),
      },
    },
  },
});

SwaggerUIBundle({
  url: "/openapi.yaml",
  dom_id: "#page",
  deepLinking: true,
  docExpansion: "full",
  tryItOutEnabled: true,
  // The default sends the document to a validator on another host.
  validatorUrl: null,
  plugins: [askThisServer],
});
