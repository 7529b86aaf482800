// Shows the interface's OpenAPI document; the browser's session or a token typed into "Authorize" opens it.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#interface", deepLinking: true, persistAuthorization: false });
