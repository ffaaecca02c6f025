//! The API's description for people: there for everyone who is allowed, and whole without the internet.

use std::net::{IpAddr, Ipv4Addr};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use tower::ServiceExt as _;
use towpath::auth::{Allowlist, Networks};
use towpath::http::PeerAddress;

use crate::support::{http, router};

/// Status, content type, policy and body of a page, without a token.
async fn page(router: &Router, path: &str) -> (u16, [String; 3], String) {
    let request = Request::get(path).header("host", "localhost");
    let request = request.extension(PeerAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let request = request.body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let headers = ["content-type", "content-security-policy", "location"].map(|name| {
        let value = response.headers().get(name);
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    });
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, headers, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn the_description_for_people_is_whole_without_the_internet() {
    let router = router().await;
    let (status, [.., location], _) = page(&router, "/docs").await;
    assert_eq!((status, location.as_str()), (308, "/docs/"));

    let (status, [content_type, policy, _], index) = page(&router, "/docs/").await;
    assert_eq!((status, content_type.as_str()), (200, "text/html"));
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");
    let links = ["src=\"", "href=\""].into_iter();
    let links = links.flat_map(|attribute| index.split(attribute).skip(1));
    let links: Vec<_> = links.filter_map(|rest| rest.split('"').next()).collect();
    assert!(links.len() > 3, "{index}");
    for link in links {
        let path = format!("/docs/{}", link.trim_start_matches("./"));
        let (status, _, file) = page(&router, &path).await;
        assert_eq!(status, 200, "{link}");
        assert!(!file.is_empty(), "{link}");
    }
    let (_, _, start) = page(&router, "/docs/swagger-initializer.js").await;
    assert!(start.contains("\"../v1/openapi.json\""), "{start}");
    assert!(!start.contains("http"), "{start}");

    let (status, [content_type, ..], _) = page(&router, "/docs/nothing.js").await;
    let expected = (404, "application/problem+json");
    assert_eq!((status, content_type.as_str()), expected);
}

#[tokio::test]
async fn the_description_for_people_is_not_for_addresses_that_are_not_allowed() {
    let mut http = http().await;
    http.allowlist = Allowlist::new(Networks::new(["10.0.0.0/8".parse().unwrap()]));
    let router = towpath::http::router(http);
    assert_eq!(page(&router, "/docs/").await.0, 403);
}
