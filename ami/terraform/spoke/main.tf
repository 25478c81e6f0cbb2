# The spokes of one VPC: one a zone, each replaced by its Auto Scaling group when it
# fails. Meanwhile another serves its route tables. With transport "none" they are the
# NAT gateways of the hub's own VPC.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

data "aws_partition" "this" {}
data "aws_region" "this" {}
data "aws_caller_identity" "this" {}
data "aws_vpc" "this" {
  id = var.vpc_id
}

locals {
  zones     = length(var.public_subnet_ids)
  addresses = { none = 0, each = local.zones, one = 1 }[var.addresses]
  arn       = "arn:${data.aws_partition.this.partition}:ec2:${data.aws_region.this.id}:${data.aws_caller_identity.this.account_id}"
}

module "documents" {
  source                 = "../documents"
  role                   = "spoke"
  partition              = data.aws_partition.this.partition
  account                = data.aws_caller_identity.this.account_id
  region                 = data.aws_region.this.id
  privnet                = var.privnet
  service_tag            = var.service_tag
  environment_tag        = var.environment_tag
  fleet_secret_parameter = var.fleet_secret_parameter
  vpc_id                 = var.vpc_id
  route_table_arns       = [for id in var.private_route_table_ids : "${local.arn}:route-table/${id}"]
  address_arns           = [for address in aws_eip.this : "${local.arn}:elastic-ip/${address.id}"]
  address_config = {
    none = ""
    each = "tag = { \"privnet:pool\" = \"${var.name}\" }"
    one  = "allocation  = \"${try(aws_eip.this[0].id, "")}\"\nconnections = ${var.keep_connections}"
  }[var.addresses]
  transport          = var.transport
  hub_address        = var.hub_address
  hub_public_key     = var.hub_public_key
  second_hub_address = var.second_hub_address
  self_test_targets  = var.self_test_targets
  more_config        = var.more_config
}

resource "aws_security_group" "this" {
  name_prefix = "privnet-spoke-${var.name}-"
  description = "privnet spokes ${var.name}"
  vpc_id      = var.vpc_id
  tags        = { Name = "privnet-spoke-${var.name}" }
  lifecycle {
    create_before_destroy = true
  }
}

# By IPsec it is the spoke who calls, and what answers is let in.
resource "aws_vpc_security_group_ingress_rule" "tunnel" {
  count             = var.transport == "wireguard" ? 1 : 0
  security_group_id = aws_security_group.this.id
  description       = "tunnels: the hub calls, too"
  ip_protocol       = "udp"
  from_port         = 51820
  to_port           = 51820
  cidr_ipv4         = "${var.hub_address}/32"
}

resource "aws_vpc_security_group_ingress_rule" "health" {
  security_group_id            = aws_security_group.this.id
  description                  = "how the other spokes are"
  ip_protocol                  = "udp"
  from_port                    = 51822
  to_port                      = 51822
  referenced_security_group_id = aws_security_group.this.id
}

resource "aws_vpc_security_group_ingress_rule" "connections" {
  count                        = var.addresses == "one" && var.keep_connections ? 1 : 0
  security_group_id            = aws_security_group.this.id
  description                  = "the connections of the address, told to the other spokes"
  ip_protocol                  = "tcp"
  from_port                    = 51822
  to_port                      = 51822
  referenced_security_group_id = aws_security_group.this.id
}

resource "aws_vpc_security_group_ingress_rule" "vpc" {
  security_group_id = aws_security_group.this.id
  description       = "what the VPC's hosts send to the internet and the privnet"
  ip_protocol       = "-1"
  cidr_ipv4         = data.aws_vpc.this.cidr_block
}

resource "aws_vpc_security_group_egress_rule" "all" {
  security_group_id = aws_security_group.this.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

# Who has which is the spokes' business: nothing here associates them.
resource "aws_eip" "this" {
  count  = local.addresses
  domain = "vpc"
  tags = {
    Name           = "privnet-spoke-${var.name}-${count.index + 1}"
    "privnet:pool" = var.name
  }
}

resource "aws_iam_role" "this" {
  name               = "privnet-spoke-${data.aws_region.this.id}-${var.name}"
  assume_role_policy = module.documents.trust
}

resource "aws_iam_role_policy" "this" {
  for_each = module.documents.policies
  name     = each.key
  role     = aws_iam_role.this.id
  policy   = each.value
}

resource "aws_iam_instance_profile" "this" {
  name = aws_iam_role.this.name
  role = aws_iam_role.this.name
}

resource "aws_launch_template" "this" {
  name_prefix            = "privnet-spoke-${var.name}-"
  image_id               = var.image_id
  instance_type          = var.instance_type
  update_default_version = true
  # /etc/privnet/spoke.toml, whole.
  user_data = base64encode(module.documents.config)

  iam_instance_profile {
    arn = aws_iam_instance_profile.this.arn
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  # A public address to begin with, whatever the subnet gives: an Elastic IP is taken
  # only after the self-test, which needs one.
  network_interfaces {
    device_index                = 0
    associate_public_ip_address = true
    delete_on_termination       = true
    security_groups             = [aws_security_group.this.id]
  }
  # By `service` the role knows the interfaces that it may change.
  tag_specifications {
    resource_type = "network-interface"
    tags          = { Name = "privnet-spoke-${var.name}", service = var.service_tag }
  }
  tag_specifications {
    resource_type = "volume"
    tags          = { Name = "privnet-spoke-${var.name}" }
  }
  lifecycle {
    precondition {
      condition     = var.transport == "none" || var.hub_address != ""
      error_message = "hub_address is needed with a tunnel."
    }
    precondition {
      condition     = var.transport != "wireguard" || var.hub_public_key != ""
      error_message = "hub_public_key is needed with transport \"wireguard\"."
    }
    precondition {
      condition     = var.transport == "ipsec" || var.second_hub_address == ""
      error_message = "second_hub_address is for transport \"ipsec\" alone: a spoke by WireGuard has one hub."
    }
  }
}

# One a zone. A new version of the launch template replaces no instance by itself, as
# Terraform would do that in all zones at once: see ../../DEPLOY.md.
resource "aws_autoscaling_group" "this" {
  count                     = local.zones
  name_prefix               = "privnet-spoke-${var.name}-${count.index + 1}-"
  min_size                  = 1
  max_size                  = 1
  desired_capacity          = 1
  vpc_zone_identifier       = [var.public_subnet_ids[count.index]]
  health_check_type         = "EC2"
  health_check_grace_period = 120

  # Its metadata tells the instance, which hands its routes over meanwhile.
  initial_lifecycle_hook {
    name                 = "hand-over"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = 30
    default_result       = "CONTINUE"
  }
  launch_template {
    id      = aws_launch_template.this.id
    version = aws_launch_template.this.latest_version
  }
  dynamic "tag" {
    for_each = {
      Name    = "${var.name}-${count.index + 1}"
      service = var.service_tag
      env     = var.environment_tag
    }
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }
  depends_on = [aws_iam_role_policy.this]
}
