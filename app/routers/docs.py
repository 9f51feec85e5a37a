"""The API's description as a page to read and to try, for a closed network: nothing on it comes from another host."""

from importlib.resources import files

from fastapi.responses import FileResponse, HTMLResponse, Response

from app.errors import NotFound
from app.web.route import Router

router = Router(include_in_schema=False)
_ASSETS = files("fastapi_swagger.resources")
_NAMES = frozenset({"favicon-32x32.png", "swagger-ui-bundle.js", "swagger-ui.css"})

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Research Registry: API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  dom_id: "#page",
  url: "v1/openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "none",
  filter: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""The Content-Security-Policy of the page: Swagger UI needs inline styles; scripts come only from this server."""


@router.get("/docs")
async def read_docs() -> Response:
    """The page. Its addresses are relative, so that it also works below a path. A token typed there is not stored."""
    return HTMLResponse(_PAGE, headers=_HEADERS)


@router.get("/docs/start.js")
async def read_start() -> Response:
    return Response(_START, media_type="text/javascript")


@router.get("/docs/{asset}")
def read_asset(asset: str) -> Response:
    """A file of Swagger UI, as its package brings it; browsers may keep it for a day."""
    if asset not in _NAMES:
        raise NotFound
    return FileResponse(str(_ASSETS / asset), headers={"Cache-Control": "public, max-age=86400"})
