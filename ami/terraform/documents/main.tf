# The policies and config files of hub, spokes and discovery roles, as texts. No provider: a test runs
# this with Terraform itself, and reads what it makes.

terraform {
  required_version = ">= 1.5"
}

locals {
  tunnel = var.transport != "none"

  # The policies are the files of ../../iam, which says what each is for, with this
  # account's own names in place of the examples'.
  policies = {
    hub = merge(
      {
        hub    = { file = "hub", without = concat(["ListRegions"], length(var.discovery_roles) > 0 ? [] : ["PollOtherAccounts"]) }
        key    = { file = "hub-key", without = [] }
        secret = { file = "secret", without = [] }
        doctor = { file = "doctor", without = [] }
      },
      var.site_secret_parameters == "" ? {} : { site-secret = { file = "site-secret", without = [] } },
    )
    spoke = merge(
      {
        routes            = { file = "routes", without = [] }
        source-dest-check = { file = "source-dest-check", without = [] }
        secret            = { file = "secret", without = [] }
        doctor            = { file = "doctor", without = [] }
      },
      local.tunnel ? { spoke = { file = "spoke", without = [] } } : {},
      length(var.address_arns) > 0 ? { address = { file = "address", without = [] } } : {},
    )
    discovery = {
      discovery = { file = "discovery", without = ["ListRegions"] }
    }
  }[var.role]

  # Lists first become marks, so that no name in them is taken for an example's.
  marked = {
    for name, policy in local.policies : name => replace(replace(replace(replace(
      file("${path.module}/../../iam/${policy.file}-policy.json"),
      "[\"us-west-2\", \"eu-west-1\"]", "\"@regions@\""),
      "/\\[[^\\]]*:route-table/[^\\]]*\\]/", "\"@tables@\""),
      "/\"[^\"]*:elastic-ip/[^\"]*\"/", "\"@addresses@\""),
    "/\\[\"arn:aws:iam::222222222222:role/privnet-discovery\"\\]/", "\"@roles@\"")
  }
  own = {
    for name, text in local.marked : name => replace(replace(replace(replace(replace(replace(replace(replace(
      text,
      "arn:aws:", "arn:${var.partition}:"),
      "111122223333", var.account),
      "us-west-2", var.region),
      "vpc-0123456789abcdef0", var.vpc_id),
      "\"nat\"", jsonencode(var.service_tag)),
      "parameter/privnet/psk", "parameter${var.fleet_secret_parameter}"),
      "parameter/privnet/site/*", "parameter${var.site_secret_parameters}"),
    "parameter/privnet/hub/private-key", "parameter${var.hub_key_parameter}")
  }
  listed = {
    for name, text in local.own : name => replace(replace(replace(replace(
      text,
      "\"@regions@\"", jsonencode(var.regions)),
      "\"@tables@\"", jsonencode(var.route_table_arns)),
      "\"@addresses@\"", jsonencode(var.address_arns)),
    "\"@roles@\"", jsonencode(var.discovery_roles[*].role_arn))
  }

  trust = var.role == "discovery" ? replace(replace(
    file("${path.module}/../../iam/discovery-trust-policy.json"),
    "\"arn:aws:iam::111122223333:role/privnet-hub\"", jsonencode(var.hub_role_arns)),
  "\"put-a-long-random-text-here\"", jsonencode(var.external_id)) : file("${path.module}/../../iam/trust-policy.json")

  config = var.role == "discovery" ? "" : var.role == "hub" ? templatefile("${path.module}/hub.toml.tftpl", {
    privnet                = var.privnet
    hub_key_parameter      = var.hub_key_parameter
    regions                = var.regions
    service_tag            = var.service_tag
    environment_tag        = var.environment_tag
    discovery_roles        = var.discovery_roles
    partition              = var.partition
    fleet_secret_parameter = var.fleet_secret_parameter
    proof                  = var.proof
    more_config            = var.more_config
    }) : templatefile("${path.module}/spoke.toml.tftpl", {
    privnet                = var.privnet
    transport              = var.transport
    fleet_secret_parameter = var.fleet_secret_parameter
    hub_address            = var.hub_address
    hub_public_key         = var.hub_public_key
    second_hub_address     = var.second_hub_address
    service_tag            = var.service_tag
    environment_tag        = var.environment_tag
    self_test_targets      = var.self_test_targets
    address_config         = var.address_config
    more_config            = var.more_config
  })
}
